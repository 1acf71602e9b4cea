"""One epoch over a site: every row once, in an order that only the seed decides."""

import itertools

import numpy as np
import pytest
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


def test_small_windows_bound_what_is_read_ahead(store, own, monkeypatch):
    monkeypatch.setattr(batches, "WINDOW_BYTES", 1)
    before = store.counters()["rows_read"]
    stream = store["resid_post"].stream(layer=1, batch_rows=3, shuffle=True, with_rows=True)
    assert store.counters()["rows_read"] == before
    read = []
    for n, (batch, rows) in enumerate(stream, 1):
        np.testing.assert_array_equal(batch, own.arrays["resid_post"][rows, 1])
        # A window is a batch and a chunk at most, and less than a batch waits from the last one.
        ahead = store.counters()["rows_read"] - before - n * 3
        assert ahead <= 3 + made.CHUNK_ROWS + 3
        read += rows.tolist()
    assert sorted(read) == list(range(made.N_ROW))


def test_a_shuffled_epoch_decodes_each_chunk_once(store):
    before = store.counters()["chunks_decoded"]
    list(store["resid_post"].stream(layer=1, batch_rows=6, shuffle=True))
    chunks = -(-made.N_ROW // made.CHUNK_ROWS)
    assert store.counters()["chunks_decoded"] - before == chunks


def test_wrong_arguments_fail_before_the_first_batch(store):
    with pytest.raises(ArgumentError, match="batch_rows is 0"):
        store["z"].stream(layer=0, batch_rows=0)
    with pytest.raises(SiteError, match="0, 2"):
        store["mlp_out"].stream(layer=1)
    with pytest.raises(SiteError, match="no axis `layer`"):
        store["embed"].stream(layer=1)
