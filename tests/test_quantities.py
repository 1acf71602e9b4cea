"""Layers and sizes as people write them."""

import pytest

from residuum.errors import InputError
from residuum.quantities import parse_layers, parse_memory


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        (None, None),
        ("3", (3,)),
        (3, (3,)),
        ("0:3", (0, 1, 2)),
        ("0,5, 2", (0, 2, 5)),
        ("0:2,4", (0, 1, 4)),
        ([4, 1, 1], (1, 4)),
    ],
)
def test_layers(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "a", "1:", "-1", "3:3", "1-2"])
def test_layers_that_are_none(text):
    with pytest.raises(InputError, match="layers"):
        parse_layers(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 * 10**9),
        ("512 MB", 512 * 10**6),
        ("1.5g", 15 * 10**8),
        ("1 GiB", 2**30),
        (10**8, 10**8),
    ],
)
def test_memory(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["lots", "", "-4GB", "1KB"])
def test_memory_that_is_none(text):
    with pytest.raises(InputError, match="memory"):
        parse_memory(text)
