"""A card for each head: the texts that say what it tells apart, and the images it says most of."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence

    from residuum.report.thumbnails import Thumbnails

TEXTS = 5  # of a head
IMAGES = 8  # of a head


@dataclass
class Head:
    """One head: its share of the variance, rows of `textspan` and rows of `top_images`."""

    layer: int
    head: int
    variance: float | None
    texts: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Such as L3H7."""
        return f"L{self.layer}H{self.head}"


def heads(textspan: pa.Table, top_images: pa.Table, effect: pa.Table) -> list[Head]:
    """The heads of both tables, those that vary most first, as far as that is known."""
    spread = {
        (row["layer"], row["head"]): row["var_share"]
        for row in effect.to_pylist()
        if row["kind"] == "head"
    }
    found: dict[tuple[int, int], Head] = {}
    for table, part in ((textspan, "texts"), (top_images, "images")):
        for row in table.sort_by([("rank", "ascending")]).to_pylist():
            place = (row["layer"], row["head"])
            head = found.setdefault(place, Head(*place, spread.get(place)))
            getattr(head, part).append(row)
    return sorted(found.values(), key=lambda h: (-(h.variance or 0.0), h.layer, h.head))


def contact_sheet(some: Sequence[Head], pictures: Thumbnails) -> str:
    """The cards side by side."""
    return f'<div class="grid">{"".join(_card(head, pictures) for head in some)}</div>'


def _card(head: Head, pictures: Thumbnails) -> str:
    share = (
        "" if head.variance is None else f" <small>{_percent(head.variance)} of variance</small>"
    )
    texts = "".join(
        f"<li>{html.escape(row['text'])} <small>{_percent(row['var_explained'])}</small></li>"
        for row in head.texts[:TEXTS]
    )
    images = "".join(
        pictures.image(
            row["example"], f"image {row['example']}: {row['value']:.3g} along “{row['text']}”"
        )
        for row in head.images[:IMAGES]
    )
    return (
        f'<article class="card"><h4>{head.name}{share}</h4>'
        f'<ol>{texts}</ol><div class="thumbs">{images}</div></article>'
    )


def listed(some: Sequence[Head]) -> pa.Table:
    """The heads as a table, a head a row."""
    return pa.table(
        {
            "head": [head.name for head in some],
            "var_share": pa.array([head.variance for head in some], pa.float64()),
            "explained": pa.array(
                [head.texts[:TEXTS][-1]["cum_explained"] if head.texts else None for head in some],
                pa.float64(),
            ),
            "texts": ["; ".join(row["text"] for row in head.texts[:TEXTS]) for head in some],
        }
    )


def _percent(share: float) -> str:
    """`27 %`, `2.3 %`, `0.031 %`."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"
