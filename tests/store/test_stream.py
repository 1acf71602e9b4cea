"""One epoch over a site: every row once, in an order that only the seed decides."""

import itertools
import threading

import numpy as np
import pytest
import scipy.stats
from store import made

from residuum.errors import ArgumentError, SiteError
from residuum.store import Store, batches


def epoch(site, **arguments):
    """All batches, joined: (values, row numbers, batch lengths)."""
    parts = list(site.stream(with_rows=True, **arguments))
    values = np.concatenate([batch for batch, _ in parts])
    return values, np.concatenate([rows for _, rows in parts]), [len(rows) for _, rows in parts]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_rows", [1, 5, 37, 100])
def test_every_row_comes_once_with_its_number(kept, batch_rows, shuffle):
    site = Store(kept.path)["z"]
    values, rows, lengths = epoch(site, layer=2, batch_rows=batch_rows, shuffle=shuffle, seed=3)
    np.testing.assert_array_equal(np.sort(rows), np.arange(made.N_ROW))
    np.testing.assert_array_equal(values, kept.arrays["z"][rows, 2].astype(values.dtype))
    assert all(n == batch_rows for n in lengths[:-1])
    assert 0 < lengths[-1] <= batch_rows
    assert (rows.tolist() == list(range(made.N_ROW))) is not shuffle


def test_the_seed_decides_the_order(store):
    site = store["resid_post"]
    first, again, other = (
        epoch(site, layer=0, batch_rows=5, shuffle=True, seed=seed)[1] for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()


def test_batches_without_numbers_are_the_same_batches(store):
    site = store["resid_post"]
    arguments = {"layer": 1, "batch_rows": 8, "shuffle": True, "seed": 1}
    with_rows = site.stream(with_rows=True, **arguments)
    for batch, (same, _) in itertools.zip_longest(site.stream(**arguments), with_rows):
        np.testing.assert_array_equal(batch, same)


def test_layers_heads_and_dtype_of_batches(store, own):
    whole = np.concatenate(list(store["mlp_out"].stream(batch_rows=10)))
    np.testing.assert_array_equal(whole, own.arrays["mlp_out"][:, list(made.MLP_LAYERS)])
    heads = np.concatenate(list(store["z"].stream(0, batch_rows=10, heads=[4, 0], dtype="float64")))
    assert heads.dtype == np.float64
    np.testing.assert_array_equal(heads, own.arrays["z"][:, 0][:, [4, 0]])
    flat = np.concatenate(list(store["embed"].stream(batch_rows=10)))
    np.testing.assert_array_equal(flat, own.arrays["embed"])


def test_small_windows_bound_what_is_read_ahead(store, own):
    before = store.counters()["rows_read"]
    stream = store["resid_post"].stream(
        layer=1, batch_rows=3, shuffle=True, with_rows=True, window_rows=1
    )
    assert store.counters()["rows_read"] == before
    read = []
    for n, (batch, rows) in enumerate(stream, 1):
        np.testing.assert_array_equal(batch, own.arrays["resid_post"][rows, 1])
        assert store.counters()["rows_read"] - before <= (n + batches.AHEAD) * 3
        read += rows.tolist()
    assert sorted(read) == list(range(made.N_ROW))


def test_a_shuffled_epoch_reads_the_bytes_of_its_rows(own):
    store = Store(own.path)
    list(store["resid_post"].stream(layer=1, batch_rows=6, shuffle=True))
    row_bytes = made.D_MODEL * 4
    n_shard = -(-made.N_ROW // made.SHARD_ROWS)
    index = n_shard * (made.SHARD_ROWS // made.CHUNK_ROWS * 16 + 4)
    assert store.counters()["bytes_read"] == made.N_ROW * row_bytes + index


def test_a_shuffled_epoch_decodes_each_compressed_chunk_once(tmp_path):
    packed = made.write(tmp_path / "packed.residuum", codec="zstd")
    store = Store(packed.path)
    values, rows, _ = epoch(store["resid_post"], layer=1, batch_rows=6, shuffle=True)
    np.testing.assert_array_equal(values, packed.arrays["resid_post"][rows, 1])
    assert store.counters()["chunks_decoded"] == -(-made.N_ROW // made.CHUNK_ROWS)


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("window_rows", [None, 8])
def test_an_epoch_is_taken_up_in_the_middle(tmp_path, codec, window_rows):
    store = Store(made.write(tmp_path / "run.residuum", codec=codec).path)
    arguments = {"layer": 0, "batch_rows": 3, "shuffle": True, "seed": 2, "with_rows": True}
    arguments["window_rows"] = window_rows
    site = store["resid_post"]
    whole = list(site.stream(**arguments))
    for start in (0, 1, 5, len(whole) - 1, len(whole), len(whole) + 7):
        rest = list(site.stream(**arguments, start=start))
        assert len(rest) == max(0, len(whole) - start)
        for (batch, rows), (expected, numbers) in zip(rest, whole[start:], strict=True):
            np.testing.assert_array_equal(rows, numbers)
            np.testing.assert_array_equal(batch, expected)


def test_who_stops_early_leaves_no_thread_behind(store):
    stream = store["resid_post"].stream(layer=1, batch_rows=3, shuffle=True)
    next(stream)
    stream.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("residuum-stream")]


def order(n_row, window_rows, *, seed, chunk_rows=256):
    """Row numbers of a shuffled epoch."""
    drawn = batches.Order.of(
        n_row, chunk_rows, 1, 64, window_rows=window_rows, shuffle=True, seed=seed
    )
    return np.concatenate([rows for _, rows in drawn.windows()])


def test_a_window_that_holds_all_is_a_uniform_permutation():
    """Each of 16 parts of the rows falls evenly on each of 16 parts of the epoch."""
    n_row, n_part = 1 << 15, 16
    table = np.zeros((n_part, n_part))
    for seed in range(8):
        rows = order(n_row, n_row, seed=seed)
        place = np.arange(n_row) * n_part // n_row
        np.add.at(table, (place, rows * n_part // n_row), 1)
    p_value = scipy.stats.chisquare(table, axis=None, ddof=2 * n_part - 2).pvalue
    assert p_value > 1e-3
    # Neighbours in the epoch are neighbours in the store as often as chance has it: two in n_row.
    assert np.mean(np.abs(np.diff(order(n_row, n_row, seed=9))) == 1) < 10 / n_row


def test_a_small_window_mixes_rows_of_its_chunks_and_no_others():
    """What `window_rows` promises: neighbours by chance in a window, whose chunks are random."""
    n_row, window_rows = 1 << 15, 1 << 12
    rows = order(n_row, window_rows, seed=1)
    np.testing.assert_array_equal(np.sort(rows), np.arange(n_row))
    for window in rows.reshape(-1, window_rows):
        chunks = np.unique(window // 256)
        assert len(chunks) == window_rows // 256
        # Random chunks, and not those that lie together.
        assert np.ptp(chunks) > len(chunks)
        # The mean run of neighbours in stored order: 1 + the chance of one, 255 in 256 of 1/window.
        starts = np.flatnonzero(np.diff(window) != 1)
        assert window_rows / (len(starts) + 1) < 1 + 10 / window_rows
    # Which window a chunk falls into is uniform.
    table = np.zeros((n_row // 256, n_row // window_rows))
    for seed in range(200):
        chunks = order(n_row, window_rows, seed=seed).reshape(-1, window_rows) // 256
        for window, there in enumerate(chunks):
            table[np.unique(there), window] += 1
    assert scipy.stats.chisquare(table, axis=None, ddof=sum(table.shape) - 2).pvalue > 1e-3


def test_wrong_arguments_fail_before_the_first_batch(store):
    with pytest.raises(ArgumentError, match="batch_rows is 0"):
        store["z"].stream(layer=0, batch_rows=0)
    with pytest.raises(ArgumentError, match="window_rows is 0"):
        store["z"].stream(layer=0, window_rows=0)
    with pytest.raises(ArgumentError, match="start is -1"):
        store["z"].stream(layer=0, start=-1)
    with pytest.raises(SiteError, match="0, 2"):
        store["mlp_out"].stream(layer=1)
    with pytest.raises(SiteError, match="no axis `layer`"):
        store["embed"].stream(layer=1)
