"""Sections of the CLIP decomposition on heads: their texts and images, and how much texts tell."""

import pyarrow as pa
import pyarrow.compute as pc

from residuum.analyses.result import Result
from residuum.report.charts import count, layer_lines
from residuum.report.clip_effect import accuracy_of_all
from residuum.report.contact_sheet import IMAGES, TEXTS, Head, contact_sheet, heads, listed
from residuum.report.sections import Section, fold, scroll
from residuum.report.thumbnails import Thumbnails

SHEETS, LISTED = 24, 200
POOLS = {"texts": "texts of the head", "random": "random directions: the control"}


def sections(result: Result) -> list[Section]:
    """What there is of both."""
    made = []
    found = heads(result["textspan"], result["top_images"], result["effect"])
    if found:
        made.append(_sheets(result, found))
    if result["textspan_accuracy"].num_rows:
        made.append(_complete(result["textspan_accuracy"], accuracy_of_all(result["ablation"])))
    return made


def _sheets(result: Result, found: list[Head]) -> Section:
    pictures = Thumbnails(result["pictures"])
    shown, others = found[:SHEETS], found[SHEETS:]
    text = (
        f"The first {TEXTS} texts that TextSpan gives a head, each with the share of the head's "
        f"variance that it explains beside those before it, and up to {IMAGES} images to which "
        "the head adds most along the first. A text can stand for its opposite, as the variance "
        f"along it has no sign. {_order(result)} {count(len(found), 'head')}, "
        "tables textspan and top_images."
    )
    if not len(pictures) and result["top_images"].num_rows:
        text += f" Images are named by number: {missing_pictures(result)}."
    body = contact_sheet(shown, pictures)
    if others:
        body += f"<div><h4>Other heads</h4>{scroll(listed(others), LISTED)}</div>"
    return Section("What heads say", text, html=body + fold(result["textspan"], "All texts"))


def _order(result: Result) -> str:
    known = result["effect"].num_rows
    return "Heads that vary most come first." if known else "Heads are in the order of layers."


def missing_pictures(result: Result) -> str:
    """Why there are no pictures."""
    skipped = result["skipped"]
    reasons = skipped.filter(pc.equal(skipped["experiment"], "pictures"))["reason"].to_pylist()
    return reasons[0] if reasons else "their pictures were not asked for"


def _complete(table: pa.Table, whole: float | None) -> Section:
    points = [
        {"layer": row["m"], "series": POOLS.get(row["pool"], row["pool"]), "value": row["accuracy"]}
        for row in table.to_pylist()
    ]
    chart = layer_lines(
        points,
        title="Heads that say their texts alone",
        unit="accuracy (share of images)",
        says="Texts that are to the point tell classes with fewer of them than random directions.",
        axis="texts of a head",
        level=None if whole is None else ("heads as they are", whole),
        zero=len({point["value"] for point in points}) == 1,
    )
    text = (
        "Each head's output is replaced by its mean and its part along its first texts; at 0 it is "
        f"the mean alone. Zero-shot accuracy over {count(table['n'][0].as_py(), 'image')}, table "
        "textspan_accuracy."
    )
    return Section("How complete the texts are", text, (chart,), fold(table, "All points"))
