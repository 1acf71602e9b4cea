"""The pages of the CLIP decomposition, from made-up numbers and pictures of one colour."""

import base64
import itertools
import json
import re
import zlib

import numpy as np
import pytest
from report import results

from residuum.analyses.clip_decomposition.tables import SPECS, tabled
from residuum.analyses.result import Result
from residuum.report import build, sections
from residuum.report.overlay import ABOVE, BELOW, OPAQUE, tint
from residuum.report.png import png

N_LAYER, N_HEAD, N_IMAGE, SIDE = 3, 5, 4, 3
HEADS = list(itertools.product(range(1, N_LAYER), range(N_HEAD)))  # that have texts
TITLES = {
    "effect": "Direct effect",
    "ablation": "Sets of components replaced by their means",
    "textspan": "What heads say",
    "textspan_accuracy": "How complete the texts are",
    "repair": "Repair",
    "groups": "Groups",
    "retrieval": "Images by property",
    "similar": "Images alike",
    "heatmap": "Where images say it",
    "segment": "Segmentation",
    "skipped": "Left out",
}
IMAGE = re.compile(r'<img class="picture[^"]*" loading="lazy" alt="([^"]*)"[^>]* src="([^"]*)">')


def result(*, empty=(), group="background", **changed):
    """A result of every table but the empty ones; `changed` replaces the rows of a table."""
    rows = {**components(), **texts(), **repairs(), **images(), **changed}
    names = [spec.name for spec in SPECS]
    tables = {name: tabled(name, [] if name in empty else rows[name]) for name in names}
    parameters = {"group": group, "label": "shape"}
    return Result("clip_decomposition", parameters, tables, {"title": "CLIP decomposition"})


def components():
    """Rows of `effect` and `ablation`."""
    parts = [("embedding", "embedding", None, None)]
    for layer in range(N_LAYER):
        parts += [(f"L{layer}H{head}", "head", layer, head) for head in range(N_HEAD)]
        parts += [(f"L{layer} {kind}", kind, layer, None) for kind in ("attention bias", "MLP")]
    effect = [
        {
            "model": "tiny",
            "component": name,
            "kind": kind,
            "layer": layer,
            "head": head,
            "var_share": (1 + (head or 0)) / 100,
            "mean_norm": 1.0,
            "class_margin": -0.1 if kind == "MLP" else 0.2,
            "n": 40,
        }
        for name, kind, layer, head in parts
    ]
    sets = [("none", None), *(("attention", at) for at in range(N_LAYER)), ("MLPs", None)]
    numbers = {"model": "tiny", "dataset": "run", "accuracy": 0.75, "worst_group": 0.5, "n": 40}
    return {
        "exactness": [
            {"model": "tiny", "what": what, "max_abs": 2e-6, "relative": 4e-7, "n": 40}
            for what in ("components", "vector")
        ],
        "effect": effect,
        "ablation": [{**numbers, "what": what, "upto_layer": at} for what, at in sets],
        "skipped": [{"experiment": "nothing", "reason": "<made up>"}],
    }


def texts(heads=HEADS, text="a <b>cat</b>"):
    """Rows of `textspan`, `textspan_accuracy` and `top_images`."""
    place = [{"model": "tiny", "layer": layer, "head": head} for layer, head in heads]
    return {
        "textspan": [
            {**at, "rank": rank, "text": f"{text} {rank}", "text_id": rank}
            | {"var_explained": 0.3 / (1 + rank), "cum_explained": 0.5}
            for at in place
            for rank in range(7)
        ],
        "top_images": [
            {**at, "text": f"{text} 0", "rank": rank, "example": rank, "value": 1.5}
            for at in place
            for rank in range(3)
        ],
        "textspan_accuracy": [
            {"model": "tiny", "pool": pool, "m": m, "accuracy": 0.5 + m / 20, "n": 40}
            for pool in ("texts", "random")
            for m in (0, 1, 5)
        ],
    }


def repairs():
    """Rows of `repair` and `groups`."""
    ways = {
        "none": {"heads": [], "others": []},
        "mlps and ranked": {"heads": [[1, 4]], "others": ["L0 MLP"]},
        "random": {"draws": 20},
    }
    return {
        "repair": [
            {"model": "tiny", "how": how, "n_head": 1, "removed": json.dumps(removed), "n": 20}
            | {"worst_group": 0.4 + at / 10, "worst_lo": 0.3, "worst_hi": 0.8}
            | {"balanced": 0.7, "accuracy": 0.75}
            for at, (how, removed) in enumerate(ways.items())
        ],
        "groups": [
            {"model": "tiny", "how": how, "removed": "{}", "group_y": y, "group_b": b, "n": 5}
            | {"accuracy": 0.5, "lo": 0.4, "hi": 0.6}
            for how in ("none", "ranked")
            for y in ("circle", "<cross>")
            for b in ("grass", "water")
        ],
    }


def images():
    """Rows of tables that pictures go with, and pictures of one colour."""
    one = {"model": "tiny", "property": "colour"}
    places = [*itertools.product(range(N_LAYER), range(N_HEAD)), (None, None)]
    return {
        "retrieval": [
            {**one, "layer": layer, "head": head, "agreement": 0.6, "chance": 0.25, "k": 5, "n": 40}
            for layer, head in places
        ],
        "similar": [
            {**one, "layer": 1, "head": 2, "query_image": query, "rank": rank}
            | {"image_id": rank, "sim": 0.9}
            for query in (3, 2)
            for rank in range(2)
        ],
        "heatmap": maps([(None, None, "circle"), (None, None, "<cross>"), (1, 4, "a dog")]),
        "segment": [
            {"model": "tiny", "method": method, "miou": 0.5, "map": 0.75, "n": 40}
            for method in ("decomposition", "random")
        ],
        "pictures": [
            {
                "example": example,
                "width": 2,
                "height": 2,
                "png": png(np.full((2, 2, 4), 50 * example, np.uint8)),
            }
            for example in range(N_IMAGE)
        ],
    }


def maps(places, n_patch=SIDE**2):
    """Rows of `heatmap`: patches count up to 1 in image 0, down to -1 in image 1."""
    return [
        {"model": "tiny", "example": example, "layer": layer, "head": head, "text": text}
        | {"patch": patch, "value": sign * (patch + 1) / n_patch}
        for layer, head, text in places
        for example, sign in ((0, 1), (1, -1))
        for patch in range(n_patch)
    ]


def drawn(spec, layer=None):
    """The rows that a chart draws, or a layer of it."""
    data = spec.get("data")
    if layer is not None:
        data = spec["layer"][layer].get("data", data)
    return spec["datasets"][data["name"]] if "name" in data else data["values"]


def section(of, title):
    """The one section with a title."""
    (found,) = (one for one in sections(of) if one.title == title)
    return found


def pixels(address):
    """The pixels of a PNG in a page, `[row, column, 4]`."""
    file = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    width, height = (int.from_bytes(file[at : at + 4]) for at in (16, 20))
    at = file.index(b"IDAT")
    body = file[at + 4 : at + 4 + int.from_bytes(file[at - 4 : at])]
    lines = np.frombuffer(zlib.decompress(body), np.uint8).reshape(height, 1 + 4 * width)
    return lines[:, 1:].reshape(height, width, 4)


def test_a_section_for_each_table():
    assert [one.title for one in sections(result())] == list(TITLES.values())


@pytest.mark.parametrize("table", [name for name in TITLES if name != "textspan"])
def test_what_is_missing_is_left_out(table):
    titles = [one.title for one in sections(result(empty=[table]))]
    assert titles == [title for name, title in TITLES.items() if name != table]


def test_a_result_without_anything_says_so():
    (only,) = sections(result(empty=[spec.name for spec in SPECS]))
    assert only.title == "Nothing to show"


def test_reasons_of_what_was_left_out():
    left = section(result(), "Left out")
    assert "&lt;made up&gt;" in left.html


def test_every_section_says_how_many():
    for one in sections(result()):
        if one.title not in ("Left out", "Groups", "What heads say"):
            assert re.search(r"\d images? ?", one.text), one.title


def test_maps_of_all_heads_and_bars_of_the_rest():
    charts = section(result(), "Direct effect").charts
    assert [len(drawn(chart.spec)) for chart in charts[::2]] == [N_LAYER * N_HEAD] * 2
    assert {row["variance"] for row in drawn(charts[0].spec)} == {1.0, 2.0, 3.0, 4.0, 5.0}
    others = drawn(charts[1].spec, 0)
    assert {row["place"] for row in others} == {"embed", "0", "1", "2"}
    assert {row["class_margin"] for row in drawn(charts[3].spec, 0)} == {-0.1, 0.2}


def test_without_classes_there_is_no_margin():
    rows = [{**row, "class_margin": None} for row in components()["effect"]]
    charts = section(result(effect=rows), "Direct effect").charts
    assert [chart.title for chart in charts] == [
        "Variance of heads",
        "Variance of other components",
    ]


def test_how_exact_the_sums_are_stands_beside_them():
    said = section(result(), "Direct effect").text
    assert "The shares of all components sum to the image's vector to 4e-07 of" in said
    assert "The vector of the final stream is the captured one to 4e-07 of" in said
    said = section(result(empty=("exactness",)), "Direct effect").text
    assert "largest value" not in said


def test_attention_over_layers_and_other_sets():
    lines, bars = section(result(), TITLES["ablation"]).charts
    points = drawn(lines.spec, 0)
    assert {(row["layer"], row["series"]) for row in points} == {
        (layer, name) for layer in range(N_LAYER) for name in ("accuracy", "worst group")
    }
    assert [row["value"] for row in drawn(lines.spec, 1)] == [0.75]
    assert {row["name"] for row in drawn(bars.spec)} == {"none", "MLPs"}


def test_without_groups_the_worst_is_a_class():
    _, bars = section(result(group=None), TITLES["ablation"]).charts
    assert {row["series"] for row in drawn(bars.spec)} == {"accuracy", "worst class"}


def test_a_sheet_has_one_image_for_each_row_of_top_images():
    body = section(result(), "What heads say").html
    found = IMAGE.findall(body)
    assert len(found) == len(texts()["top_images"])
    assert {source for _, source in found} <= {
        f"data:image/png;base64,{base64.b64encode(row['png']).decode()}"
        for row in images()["pictures"]
    }
    assert found[0][0] == "image 0: 1.5 along “a &lt;b&gt;cat&lt;/b&gt; 0”"


def test_heads_that_vary_most_come_first_and_the_last_are_listed():
    heads = list(itertools.product(range(1, 7), range(N_HEAD)))
    body = section(result(**texts(heads)), "What heads say").html
    cards, listed = body.split("Other heads")
    names = re.findall(r"<h4>(L\dH\d)", cards)
    assert len(names) == 24
    assert names[:4] == ["L1H4", "L2H4", "L1H3", "L2H3"]  # those of other layers are not known
    assert len(re.findall(r"<td[^>]*>L\dH\d</td>", listed)) == 6


def test_texts_of_heads_stay_texts():
    body = section(result(), "What heads say").html
    assert "<b>cat" not in body
    assert body.count("<li>") == 5 * len(HEADS)
    assert "<li>a &lt;b&gt;cat&lt;/b&gt; 0 <small>30 %</small></li>" in body


def test_without_pictures_images_are_named_and_the_reason_is_given():
    skipped = [{"experiment": "pictures", "reason": "neither an image nor a path"}]
    of = result(empty=["pictures"], skipped=skipped)
    for title in ("What heads say", "Images alike", "Where images say it"):
        assert "neither an image nor a path" in section(of, title).text
    body = section(of, "What heads say").html
    assert "<img" not in body
    assert body.count(">image 0</span>") == len(HEADS)


def test_texts_against_random_directions():
    (chart,) = section(result(), TITLES["textspan_accuracy"]).charts
    assert {row["series"] for row in drawn(chart.spec, 0)} == {
        "texts of the head",
        "random directions: the control",
    }
    assert [row["value"] for row in drawn(chart.spec, 1)] == [0.75]


def test_repairs_are_dots_beside_the_model_as_it_is():
    worst, balanced = section(result(), "Repair").charts
    assert [row["value"] for row in drawn(worst.spec, 0)] == [0.4]
    dots = drawn(worst.spec, 2)
    assert [row["name"] for row in dots] == [
        "all MLPs and 1 head ranked first",
        "1 head at random: the control",
    ]
    assert (dots[1]["lo"], dots[1]["hi"]) == (0.3, 0.8)
    assert {row["value"] for row in drawn(balanced.spec, 2)} == {0.7}
    assert "L1H4, L0 MLP" in section(result(), "Repair").html


def test_a_group_is_a_row_and_a_way_a_column():
    wide, long = section(result(), "Groups").html.split("<details>")
    assert wide.count("<tr>") == 1 + 4
    assert "&lt;cross&gt;" in wide
    assert long.count("<tr>") == 1 + 8


def test_agreement_starts_at_chance():
    (chart,) = section(result(), "Images by property").charts
    assert len(drawn(chart.spec)) == N_LAYER * N_HEAD
    assert chart.spec["layer"][0]["encoding"]["color"]["scale"]["domain"] == [0.25, 1.0]
    assert chart.says == "Chance: 0.25. By the whole vector: 0.60."


def test_strips_start_with_the_image_that_was_asked_for():
    body = section(result(), "Images alike").html
    words = [alt for alt, _ in IMAGE.findall(body)]
    assert words[0] == "image 3, compared with others"
    assert words[1:3] == ["image 0, cosine 0.900", "image 1, cosine 0.900"]
    assert body.count('class="asked"') == 2


def test_colours_of_a_known_map():
    found = tint(np.array([[2.0, -2.0], [0.0, 0.5], [9.0, np.nan]]), 2.0)
    full, half = round(255 * OPAQUE), round(255 * OPAQUE * 0.5)  # the root of a quarter
    assert found[0].tolist() == [[*ABOVE, full], [*BELOW, full]]
    assert found[1].tolist() == [[*ABOVE, 0], [*ABOVE, half]]
    assert found[2, :, 3].tolist() == [full, 0]


def test_maps_lie_on_their_pictures():
    body = section(result(), "Where images say it").html
    first = body[body.index('<div class="overlay">') :]
    (under, _), (words, source), *_ = IMAGE.findall(first)
    assert under == ""  # the map has the words of both
    assert words.startswith("map of image 0 along “circle”: 0.11 to 1, strongest in row 2")
    shown = pixels(source)
    assert shown.shape == (SIDE, SIDE, 4)
    assert np.all(np.diff(shown[..., 3].ravel().astype(int)) > 0)  # patches count up, row by row
    assert shown[-1, -1].tolist() == [*ABOVE, round(255 * OPAQUE)]


def test_a_row_for_each_image_and_a_tile_for_each_map():
    body = section(result(), "Where images say it").html
    assert body.count('class="strip"') == 2 * 2  # classes, heads
    assert body.count('class="overlay"') == 2 * 3
    assert "&lt;cross&gt;" in body
    assert "<cross>" not in body
    assert "L1H4 a dog, ±1" in body


def test_of_many_classes_those_that_say_most():
    rows = maps([(None, None, f"class {at}") for at in range(20)])
    for row in rows:
        row["value"] *= int(row["text"].removeprefix("class "))
    body = section(result(heatmap=rows), "Where images say it").html
    assert body.count('class="overlay"') == 2 * 8
    names = re.findall(r"<small>(class \d+)</small>", body)
    assert names[0] == "class 19"
    assert names[8] == "class 0"  # the sums of image 1 are below 0


def test_patches_that_are_no_square_are_not_drawn():
    made = section(result(heatmap=maps([(None, None, "circle")], 6)), "Where images say it")
    assert "no square" in made.text
    assert made.html == ""


def test_measures_of_segmentation():
    (chart,) = section(result(), "Segmentation").charts
    assert [(row["name"], row["series"], row["value"]) for row in drawn(chart.spec)] == [
        (name, series, value)
        for name in ("decomposition", "random")
        for series, value in (("mIoU", 0.5), ("mAP", 0.75))
    ]


def test_the_page_reaches_nowhere_and_stays_small():
    page = build(results.CARD, [result()])
    body, _, _ = page.partition("<script")  # the chart library writes elements too
    tags = re.findall(r"<img[^>]*>", body)
    assert tags
    assert all(' src="data:image/png;base64,' in tag and ' alt="' in tag for tag in tags)
    assert len(page) < 3_000_000


def test_all_draw():
    for one in sections(result()):
        for chart in one.charts:
            assert chart.png().startswith(b"\x89PNG")
