"""Sections of the CLIP decomposition on image patches: maps on pictures, objects found by them."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.report.charts import count, largest
from residuum.report.clip_heads import missing_pictures
from residuum.report.named_bars import named_bars
from residuum.report.overlay import overlay, scale, square
from residuum.report.sections import Section, fold
from residuum.report.thumbnails import Thumbnails

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from residuum.analyses.result import Result

EXAMPLES, CLASSES, HEADS = 8, 8, 8  # rows of pictures; maps in each
MEASURES = {"miou": "mIoU", "map": "mAP"}


@dataclass
class Map:
    """What the image patches of one image add along one text, `[row, column]`."""

    example: int
    head: str
    text: str
    values: NDArray[np.float64]


def sections(result: Result) -> list[Section]:
    """What there is of both."""
    made = []
    if result["heatmap"].num_rows:
        made.append(_maps(result))
    if result["segment"].num_rows:
        made.append(_segment(result["segment"]))
    return made


def _maps(result: Result) -> Section:
    pictures, maps = Thumbnails(result["pictures"]), read(result["heatmap"])
    examples = list(dict.fromkeys(one.example for one in maps))[:EXAMPLES]
    body = _of_classes([one for one in maps if not one.head], examples, pictures)
    body += _of_heads([one for one in maps if one.head], examples, pictures)
    text = (
        "What each image patch adds to the image's vector along a text (its share; the class token "
        "is left out): orange towards it, blue away from it, 0 without colour. Colours end at "
        "the largest magnitude, which ± names: of one image's classes, or of one head. "
        f"{_lying(result, pictures)} {count(len(examples), 'image')} of "
        f"{result['heatmap']['model'][0]}, table heatmap."
    )
    if not maps:
        text = "The image patches are no square; the table heatmap has their values."
    return Section("Where images say it", text, html=body)


def _lying(result: Result, pictures: Thumbnails) -> str:
    if not len(pictures):
        return f"Without pictures: {missing_pictures(result)}."
    return (
        "Maps lie on the picture in grey, cut to its middle square, as if the model had seen that "
        "(a processor that stretches pictures shows it another); the pointer lifts them off."
    )


def read(table: pa.Table) -> list[Map]:
    """The maps of the table `heatmap`, in its order; those that are no square are left out."""
    found: dict[tuple[Any, ...], list[tuple[int, float]]] = {}
    names = ("example", "layer", "head", "text", "patch", "value")
    for *place, patch, value in zip(*(table[name].to_pylist() for name in names), strict=True):
        found.setdefault(tuple(place), []).append((patch, value))
    maps = []
    for (example, layer, head, text), patches in found.items():
        values = square(np.array([value for _, value in sorted(patches)]))
        if values is not None:
            name = "" if layer is None else f"L{layer}" if head is None else f"L{layer}H{head}"
            maps.append(Map(example, name, text, values))
    return maps


def _of(maps: list[Map], example: int) -> list[Map]:
    return [one for one in maps if one.example == example]


def _most(maps: list[Map], example: int) -> list[Map]:
    """The classes of an image; of many, those that its image patches add most to."""
    mine = _of(maps, example)
    if len(mine) <= CLASSES:
        return mine
    return sorted(mine, key=lambda one: -float(one.values.sum()))[:CLASSES]


def _limit(maps: list[Map]) -> float:
    """The end of the colours: the largest magnitude."""
    return largest(float(np.abs(one.values).max()) for one in maps)


def _of_classes(maps: list[Map], examples: list[int], pictures: Thumbnails) -> str:
    """A row of each image: its picture, and maps on one scale so that they can be compared."""
    rows = ""
    for example in examples:
        mine = _most(maps, example)
        limit = _limit(mine)
        first = f"image {example}, ±{limit:.2g}"
        rows += _row(example, first, [(_drawn(m, limit, pictures), m.text) for m in mine], pictures)
    return f"<div><h4>Classes, all heads {scale()}</h4>{rows}</div>" if maps else ""


def _of_heads(maps: list[Map], examples: list[int], pictures: Thumbnails) -> str:
    """The same of heads; a head has one scale, so that its images can be compared."""
    limits = {
        name: _limit([one for one in maps if one.head == name])
        for name in dict.fromkeys(one.head for one in maps)
    }
    rows = ""
    for example in examples:
        tiles = [
            (
                _drawn(one, limits[one.head], pictures),
                f"{one.head} {one.text}, ±{limits[one.head]:.2g}",
            )
            for one in _of(maps, example)[:HEADS]
        ]
        rows += _row(example, f"image {example}", tiles, pictures)
    title = f"Heads, along their first text {scale()}"
    return f"<div><h4>{title}</h4>{rows}</div>" if maps else ""


def _row(example: int, first: str, maps: list[tuple[str, str]], pictures: Thumbnails) -> str:
    """The picture of an image and its maps, with words below."""
    tiles = [(pictures.image(example, f"image {example}"), first), *maps]
    drawn = "".join(
        f'<div class="tile">{picture}<small>{html.escape(words)}</small></div>'
        for picture, words in tiles
    )
    return f'<div class="strip">{drawn}</div>'


def _drawn(one: Map, limit: float, pictures: Thumbnails) -> str:
    of = f" of {one.head}" if one.head else ""
    says = f"map{of} of image {one.example} along “{one.text}”"
    return overlay(pictures, one.example, one.values, limit, says)


def _segment(table: pa.Table) -> Section:
    rows = table.to_pylist()
    bars = [
        {"name": row["method"], "series": series, "value": row[field]}
        for row in rows
        for field, series in MEASURES.items()
    ]
    chart = named_bars(
        bars,
        series=list(MEASURES.values()),
        unit="share",
        title="Objects found",
        says="mIoU: mean overlap with object and ground; mAP: mean average precision.",
    )
    text = (
        "Maps of the text less the mean over all texts, made binary at their own mean, against "
        "masks of the objects; attention and random maps beside them. "
        f"{count(rows[0]['n'], 'image')}, table segment."
    )
    return Section("Segmentation", text, (chart,), fold(table, "All measures"))
