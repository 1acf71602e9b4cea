"""Sections of the CLIP decomposition on retrieval: which heads find images alike in a property."""

import html
from itertools import groupby
from typing import Any

import pyarrow as pa

from residuum.analyses.result import Result
from residuum.report.charts import Chart, count, head_map
from residuum.report.clip_heads import missing_pictures
from residuum.report.sections import Section, fold
from residuum.report.thumbnails import Thumbnails

FOUND, QUERIES = 8, 6  # images of a strip; strips of a property


def sections(result: Result) -> list[Section]:
    """What there is of both."""
    made = []
    if result["retrieval"].num_rows:
        made.append(_agreement(result["retrieval"]))
    if result["similar"].num_rows:
        made.append(_similar(result))
    return made


def _agreement(table: pa.Table) -> Section:
    rows = table.to_pylist()
    names = dict.fromkeys(row["property"] for row in rows)
    charts = [_map(name, [row for row in rows if row["property"] == name]) for name in names]
    text = (
        f"Of the {count(rows[0]['k'], 'image')} nearest to another in what a head says (cosine of "
        "centred outputs): the share that have the same value of a property. The colour starts at "
        f"what images drawn at random agree in. {count(rows[0]['n'], 'image')} looked up, table "
        "retrieval."
    )
    return Section("Images by property", text, charts, fold(table, "All heads"))


def _map(name: str, rows: list[dict[str, Any]]) -> Chart:
    whole = next((row["agreement"] for row in rows if row["head"] is None), None)
    chance = rows[0]["chance"]
    says = f"Chance: {chance:.2f}."
    if whole is not None:
        says += f" By the whole vector: {whole:.2f}."
    return head_map(
        [
            {field: row[field] for field in ("layer", "head", "agreement")}
            for row in rows
            if row["head"] is not None
        ],
        value="agreement",
        title=f"Same {name}",
        says=says,
        unit="share",
        low=min(chance, 0.99),
        high=1.0,
    )


def _similar(result: Result) -> Section:
    pictures = Thumbnails(result["pictures"])
    rows = result["similar"].to_pylist()
    asked = len({row["query_image"] for row in rows})
    body = ""
    for name, mine in groupby(rows, key=lambda row: row["property"]):
        strips = [list(some) for _, some in groupby(mine, key=lambda row: row["query_image"])]
        first = strips[0][0]
        head = f"<small>by L{first['layer']}H{first['head']}</small>"
        drawn = "".join(_strip(strip, pictures) for strip in strips[:QUERIES])
        body += f"<div><h4>{html.escape(name)} {head}</h4>{drawn}</div>"
    text = (
        "Left, with a frame: the image that others are compared with; then those nearest to it in "
        "what the best head of the property says, nearest first. Under the pointer: the cosine of "
        f"centred outputs. {count(asked, 'image')} looked up, table similar."
    )
    if not len(pictures):
        text += f" Images are named by number: {missing_pictures(result)}."
    return Section("Images alike", text, html=body)


def _strip(rows: list[dict[str, Any]], pictures: Thumbnails) -> str:
    query = rows[0]["query_image"]
    asked = pictures.image(query, f"image {query}, compared with others")
    found = "".join(
        pictures.image(row["image_id"], f"image {row['image_id']}, cosine {row['sim']:.3f}")
        for row in sorted(rows, key=lambda row: row["rank"])[:FOUND]
    )
    return f'<div class="thumbs"><span class="asked">{asked}</span>{found}</div>'
