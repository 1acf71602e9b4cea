"""Charts as specifications and as PNG."""

import struct
import zlib

import pytest
from report import results

from residuum.report import sections
from residuum.report.charts import head_map
from residuum.report.lens_map import printable


def test_signed_scale_is_centred_on_zero():
    rows = [{"layer": 0, "head": 0, "mean": -2.0}, {"layer": 0, "head": 1, "mean": 0.5}]
    chart = head_map(rows, value="mean", title="t", says="s", unit="logits", signed=True)
    scale = chart.spec["layer"][0]["encoding"]["color"]["scale"]
    assert scale["domain"] == [-2.0, 2.0]
    assert scale["domainMid"] == 0


def test_axes_and_legend_are_named_with_units():
    heads, _ = sections(results.head_attribution())
    encoding = heads.charts[0].spec["layer"][0]["encoding"]
    assert encoding["x"]["title"] == "head"
    assert encoding["y"]["title"] == "layer"
    assert encoding["color"]["title"] == "logits"


def test_a_map_too_wide_for_numbers_has_none():
    rows = [{"layer": 0, "head": head, "mean": 1.0} for head in range(40)]
    chart = head_map(rows, value="mean", title="t", says="s", unit="logits")
    assert len(chart.spec["layer"]) == 1


def test_all_zero_values_still_have_a_scale():
    rows = [{"layer": 0, "head": 0, "mean": 0.0}]
    chart = head_map(rows, value="mean", title="t", says="s", unit="logits", signed=True)
    assert chart.spec["layer"][0]["encoding"]["color"]["scale"]["domain"] == [-1.0, 1.0]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_png(mode):
    first, _ = sections(results.logit_lens())
    width, height, pixels = _decoded(first.charts[0].png(mode))
    assert width > 300
    assert height > 200
    assert len(set(pixels)) > 10  # not one flat colour


def _decoded(png):
    """Width, height and the unfiltered bytes of a PNG image."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, body = 8, b""
    while at < len(png):
        (length,), kind = struct.unpack(">I", png[at : at + 4]), png[at + 4 : at + 8]
        chunk = png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height = struct.unpack(">II", chunk[:8])
        if kind == b"IDAT":
            body += chunk
        at += length + 12
    return width, height, zlib.decompress(body)


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", "·the"),
        ("\n", "⏎"),
        ("  ", "·"),
        ("", "·"),
        (None, ""),
        ("internationalisation", "international…"),
    ],
)
def test_tokens_are_visible_words(token, shown):
    assert printable(token) == shown
