"""Settings: checked before a model is loaded, with the value and the choices in the message."""

import pytest

from residuum.capture.settings import Settings
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
        (
            {"schedule": "sideways"},
            CaptureError,
            "no schedule 'sideways': choose forward, layerwise",
        ),
        ({"dtype": "int4"}, InputError, "float32, float16, bfloat16"),
        ({"dtype": "int8"}, InputError, "made of a store by export"),
        ({"codec": "lz4"}, InputError, "none, zstd"),
        ({"batch_tokens": 0}, InputError, "batch_tokens 0"),
        ({"shard_rows": -1}, InputError, "shard_rows -1"),
        ({"positions": "some"}, InputError, "column:NAME"),
    ],
)
def test_values_out_of_range_are_refused(setting, kind, says):
    with pytest.raises(kind, match=says):
        Settings.checked(**USUAL | setting)
