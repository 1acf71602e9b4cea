"""Sections of the CLIP decomposition on image patches: maps on pictures, objects found by them."""

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from residuum.analyses.result import Result
from residuum.report.charts import count, largest
from residuum.report.clip_heads import missing_pictures
from residuum.report.named_bars import named_bars
from residuum.report.overlay import overlay, scale, square
from residuum.report.sections import Section, fold
from residuum.report.thumbnails import Thumbnails

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXAMPLES, CLASSES, HEADS = 8, 8, 8  # rows of pictures; maps in each
MEASURES = {"miou": "mIoU", "map": "mAP"}


@dataclass
class Map:
    """What the patches of one image add along one text, `[row, column]`."""

    example: int
    head: str
    text: str
    values: "NDArray[np.float64]"


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
    whole = [one for one in maps if not one.head]
    heads = [one for one in maps if one.head]
    body = ""
    if whole:
        body += f"<div><h4>Classes, all heads {scale()}</h4>"
        body += "".join(_classes(e, _most(whole, e), pictures) for e in examples) + "</div>"
    if heads:
        body += f"<div><h4>Heads, along their first text {scale()}</h4>"
        body += "".join(_heads(e, _of(heads, e)[:HEADS], pictures) for e in examples) + "</div>"
    text = (
        "What each image patch adds to the image's vector along a text (its share; the class token "
        "is left out): orange towards it, blue away from it, 0 without colour. Colours end at "
        "the largest magnitude, which ± names: of an image's classes together, of each head's map "
        f"by itself. {_lying(result, pictures)} {count(len(examples), 'image')} of "
        f"{result['heatmap']['model'][0]}, table heatmap."
    )
    if not maps:
        text = "The patches of these images are no square; the table heatmap has their values."
    return Section("Where images say it", text, html=body)


def _lying(result: Result, pictures: Thumbnails) -> str:
    if not len(pictures):
        return f"Without pictures: {missing_pictures(result)}."
    return "Maps lie on the picture in grey, cut to its middle square; the pointer lifts them off."


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
    """The classes of an image; of many, those that its patches add most to."""
    mine = _of(maps, example)
    if len(mine) <= CLASSES:
        return mine
    return sorted(mine, key=lambda one: -float(one.values.sum()))[:CLASSES]


def _limit(maps: list[Map]) -> float:
    """The end of the colours: the largest magnitude."""
    return largest(float(np.abs(one.values).max()) for one in maps)


def _classes(example: int, maps: list[Map], pictures: Thumbnails) -> str:
    """A picture and its maps of classes, on one scale so that they can be compared."""
    limit = _limit(maps)
    tiles = [_tile(pictures.image(example, f"image {example}"), f"image {example}, ±{limit:.2g}")]
    tiles += [_tile(_drawn(one, limit, pictures), one.text) for one in maps]
    return f'<div class="strip">{"".join(tiles)}</div>'


def _heads(example: int, maps: list[Map], pictures: Thumbnails) -> str:
    """A picture and its maps of heads, each on its own scale."""
    tiles = [_tile(pictures.image(example, f"image {example}"), f"image {example}")]
    for one in maps:
        limit = _limit([one])
        words = f"{one.head} {one.text}, ±{limit:.2g}"
        tiles.append(_tile(_drawn(one, limit, pictures), words))
    return f'<div class="strip">{"".join(tiles)}</div>'


def _drawn(one: Map, limit: float, pictures: Thumbnails) -> str:
    of = f" of {one.head}" if one.head else ""
    says = f"map{of} of image {one.example} along “{one.text}”"
    return overlay(pictures, one.example, one.values, limit, says)


def _tile(picture: str, words: str) -> str:
    return f'<div class="tile">{picture}<small>{html.escape(words)}</small></div>'


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
