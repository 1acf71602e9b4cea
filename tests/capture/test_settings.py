"""Settings: checked before a model is loaded, with the value and the choices in the message."""

import pytest

from residuum.capture.settings import Settings, parse_layers, parse_memory
from residuum.errors import CaptureError, InputError, SiteError
from residuum.sites import Site

USUAL = {
    "sites": ["resid_post"],
    "layers": None,
    "positions": "all",
    "keys": "all",
    "dtype": None,
    "batch_tokens": 100,
    "memory": None,
    "shard_rows": 8,
    "chunk_rows": None,
    "codec": "none",
    "schedule": "forward",
    "allow_nonfinite": False,
}


def test_sites_are_parsed_and_ordered():
    settings = Settings.checked(**USUAL | {"sites": ["z", "resid_pre", Site.Z]})
    assert settings.sites == (Site.RESID_PRE, Site.Z)
    assert Settings.checked(**USUAL | {"sites": "z"}).sites == (Site.Z,)


@pytest.mark.parametrize(
    ("setting", "kind", "says"),
    [
        ({"sites": ["resid_postt"]}, SiteError, "resid_postt.*resid_post"),
        ({"sites": []}, InputError, "no site"),
        ({"schedule": "layerwise"}, CaptureError, "'layerwise' is not available"),
        ({"dtype": "int8"}, InputError, "float32, float16, bfloat16"),
        ({"codec": "lz4"}, InputError, "none, zstd"),
        ({"batch_tokens": 0}, InputError, "batch_tokens 0"),
        ({"shard_rows": -1}, InputError, "shard_rows -1"),
        ({"positions": "some"}, InputError, "column:NAME"),
    ],
)
def test_values_out_of_range_are_refused(setting, kind, says):
    with pytest.raises(kind, match=says):
        Settings.checked(**USUAL | setting)


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
