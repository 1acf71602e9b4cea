"""`site[rows, layers, heads, ...]` and `np.asarray(site)`: what numpy gives on the whole array."""

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store import made

from residuum.errors import ArgumentError, SelectionError, SiteError
from residuum.store import Store

WHOLE = ("z", "k", "resid_post", "embed", "pooled")


def along_each_axis(array, key):
    """The selection of numpy, each list along its own axis."""
    keys = key if isinstance(key, tuple) else (key,)
    at = next((i for i, one in enumerate(keys) if one is Ellipsis), None)
    if at is not None:
        whole = (slice(None),) * (array.ndim - len(keys) + 1)
        keys = (*keys[:at], *whole, *keys[at + 1 :])
    # From the last axis to the first, so that a dropped axis moves no axis still to come.
    for axis, one in reversed(list(enumerate(keys))):
        index = np.array(one, np.int64) if isinstance(one, list) and not one else one
        array = array[(slice(None),) * axis + (index,)]
    return array


def check(kept, site, key):
    read = Store(kept.path)[site][key]
    want = along_each_axis(kept.arrays[site], key)
    np.testing.assert_array_equal(read, want.astype(read.dtype))
    assert np.shape(read) == np.shape(want)


def selectors(length):
    """Integers, slices, lists and masks along an axis."""
    number = st.integers(-length, length - 1)
    mask = st.lists(st.booleans(), min_size=length, max_size=length).map(np.array)
    return st.one_of(number, st.slices(length), st.lists(number, max_size=4), mask)


@st.composite
def keys(draw, shape):
    """A selector for each of some axes, perhaps with an ellipsis for others."""
    n = draw(st.integers(0, len(shape)))
    front = draw(st.integers(0, n))
    dots = draw(st.booleans())
    axes = [*shape[:front], *(shape[len(shape) - n + front :] if dots else shape[front:n])]
    key = [draw(selectors(length)) for length in axes]
    return (*key[:front], *([...] if dots else []), *key[front:])


@given(data=st.data(), site=st.sampled_from(WHOLE))
def test_any_key_selects_what_it_selects_in_numpy(kept, data, site):
    check(kept, site, data.draw(keys(kept.arrays[site].shape)))


@pytest.mark.parametrize(
    "key",
    [
        3,
        np.int64(-1),
        slice(4, 9),
        ...,
        (),
        (..., 2),
        (slice(None), 1, [4, 0], slice(None, None, -2)),
        ([7, 7, 0], [2, 0], [1, 3], [6, 0, 2]),
        (5, 0, 1, 6),
        (np.arange(made.N_ROW) % 2 == 0, ..., 0),
    ],
    ids=str,
)
def test_keys_of_a_site_with_heads(kept, key):
    check(kept, "z", key)


def test_an_arrow_column_selects_as_a_list(kept):
    site = Store(kept.path)["resid_post"]
    rows = pa.array([30, 2])
    np.testing.assert_array_equal(site[rows, 1], site[[30, 2], 1])


def test_only_chunks_that_are_asked_for_are_decoded(kept):
    store = Store(kept.path)
    store["z"][3:5, 1, 2, ::2]
    # Rows 3 and 4 lie in two chunks of four.
    assert store.counters()["chunks_decoded"] == 2


def test_an_array_of_all_numbers(kept):
    store = Store(kept.path)
    for site in WHOLE:
        array = np.asarray(store[site])
        assert array.dtype == store[site].read(0).dtype
        np.testing.assert_array_equal(array, kept.arrays[site].astype(array.dtype))
        assert len(store[site]) == len(array)
    stored = np.array(store["z"], dtype=ml_dtypes.bfloat16)
    assert stored.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(np.asarray(store.target), made.target(kept.ids))
    np.testing.assert_array_equal(np.mean(store["pooled"], axis=0), store["pooled"].read().mean(0))
    with pytest.raises(ArgumentError, match="copy"):
        np.asarray(store["z"], copy=False)


def test_rows_are_iterated_over(kept):
    site = Store(kept.path)["resid_post"]
    np.testing.assert_array_equal(np.stack(list(site)), site.read())


def test_a_place_along_layer_is_the_layer(kept):
    """A site without one of its layers has no `:` of layers, so that no layer takes its place."""
    site = Store(kept.path)["mlp_out"]
    for key in (..., 0, (slice(None), 1), (0, slice(1, None))):
        with pytest.raises(SiteError, match=r"layer 1 .*mlp_out.*0, 2"):
            site[key]
    with pytest.raises(SiteError, match="layer 1"):
        np.asarray(site)
    check(kept, "mlp_out", (slice(3, 9), [2, 0], 5))
    check(kept, "mlp_out", (slice(None), slice(0, 3, 2)))


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        ((0, 0, 0, 0, 0), SelectionError, "5 axes .*4: row, layer, head, d_head"),
        ((..., 0, ...), SelectionError, r"2 `\.\.\.` in one"),
        ((0, None), SelectionError, "None.* axis `layer` of z"),
        ((..., 7), SelectionError, "7 is out of range for axis `d_head` of z, whose length is 7"),
        (37, SelectionError, "37 is out of range for axis `row`"),
        ((0, 3), SiteError, "3 is out of range for axis `layer`"),
        ((0, 0, [0, -6]), SiteError, "-6 is out of range for axis `head`"),
        ("row", SelectionError, "axis `row`"),
        (np.ones((37, 3), bool), SelectionError, "2 axes"),
    ],
)
def test_keys_that_select_nothing_are_refused(kept, key, error, message):
    with pytest.raises(error, match=message) as caught:
        Store(kept.path)["z"][key]
    assert isinstance(caught.value, IndexError)


@pytest.mark.parametrize("site", ["z", "resid_post", "embed"])
def test_an_array_of_numbers_reads_what_a_list_does(store, site):
    layer = 2 if store[site].has_layers else None
    for rows in ([5, 0, 30, 5], [], [3, -1], [-37]):
        found = store[site].read(np.array(rows, np.int64), layer)
        np.testing.assert_array_equal(found, store[site].read(rows, layer))
    for row in (37, -38):
        with pytest.raises(SelectionError, match=f"{row} is out of range"):
            store[site].read(np.array([0, row]), layer)


def test_a_layer_counted_from_the_end_is_that_layer(store):
    rows = np.array([4, 1])
    np.testing.assert_array_equal(store["z"].read(rows, -1), store["z"].read(rows, 2))
    with pytest.raises(SiteError, match="layer 1"):
        store["mlp_out"].read(rows, 1)
