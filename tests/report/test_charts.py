"""Charts as specifications and as PNG."""

import re
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


def test_counts_in_tooltips_are_whole():
    heads, _ = sections(results.head_attribution())
    shown = {t["field"]: t for t in heads.charts[0].spec["layer"][0]["encoding"]["tooltip"]}
    assert shown["n"]["format"] == ",d"
    assert shown["mean"]["title"] == "mean (logits)"


@pytest.mark.parametrize(("n_layer", "labels"), [(1, [0]), (2, [0, 1]), (48, [*range(0, 48, 4)])])
def test_layers_along_a_line_are_whole(n_layer, labels):
    _, curves = sections(results.logit_lens(n_layer=n_layer))
    assert curves.charts[0].spec["encoding"]["x"]["axis"]["values"] == labels


@pytest.mark.parametrize(("n_layer", "step"), [(1, 1), (14, 1), (15, 2), (48, 4)])
def test_of_many_layers_the_lens_map_shows_some(n_layer, step):
    first, _ = sections(results.logit_lens(1, 2, n_layer))
    params = {param["name"]: param for param in first.charts[0].spec["params"]}
    assert params["step"]["value"] == step
    assert params["step"].get("bind", {}).get("options", [1])[-1] == step
    (rows,) = first.charts[0].spec["datasets"].values()
    shown = {row["layer"] for row in rows if row["layers_after"] % step == 0}
    assert n_layer - 1 in shown
    assert len(shown) <= 14


def test_roles_share_their_colours_and_a_role_of_no_token_keeps_its_row():
    maps, strongest = sections(results.attention_roles())
    scales = [chart.spec["layer"][0]["encoding"]["color"]["scale"] for chart in maps.charts]
    assert len(maps.charts) == 5
    assert all(scale == scales[0] for scale in scales)
    assert strongest.html.count("<tr>") == 1 + 6
    assert re.findall(r">([^<]*)</td>", strongest.html)[-8:] == ["Separators", "0", *[""] * 6]


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
