"""Small copies of the images that other tables speak of, so that a report can show them.

Images are taken from the examples, as bytes or by the path that they were captured from; the model
is not needed, but Pillow is.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.dataset as ds

from residuum.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa

    from residuum.analyses.clip_decomposition.study import Study

SIDE = 96
"""Pixels of the longer side."""
MOST = 600
"""Pictures that are kept."""
COLUMNS = ("image", "path")
SHOWN = {
    "top_images": ("example",),
    "heatmap": ("example",),
    "similar": ("query_image", "image_id"),
}
"""Columns of tables that name images."""


def pictures(study: Study, tables: Mapping[str, pa.Table]) -> Iterator[dict[str, Any]]:
    """Rows of the table `pictures`.

    Raises:
        InputError: the store does not say where its images are.
        ModuleNotFoundError: Pillow is not installed.
    """
    import PIL.Image  # of the extra `capture`

    names = study.store.examples.schema.names
    column = next((name for name in COLUMNS if name in names), None)
    if column is None:
        message = f"the examples of {study.store.path} have neither an image nor a path"
        raise InputError(message)
    wanted = {
        example: None
        for table, places in SHOWN.items()
        for place in places
        for example in tables[table][place].to_pylist()
    }
    chosen = sorted(list(wanted)[:MOST])
    found = study.store.examples.to_table(
        columns=["example", column], filter=ds.field("example").isin(chosen)
    )
    root = Path(study.params.images or ".")
    for example, value in zip(found["example"].to_pylist(), found[column].to_pylist(), strict=True):
        try:
            with PIL.Image.open(_source(value, root)) as opened:
                image = opened.convert("RGB")
        except OSError as error:
            message = (
                f"the image of example {example} cannot be read: {error}; name the folder that "
                "paths start from as `images`"
            )
            raise InputError(message) from error
        image.thumbnail((SIDE, SIDE))
        kept = io.BytesIO()
        image.save(kept, "PNG")
        yield {
            "example": example,
            "width": image.width,
            "height": image.height,
            "png": kept.getvalue(),
        }


def _source(value: object, root: Path) -> io.BytesIO | Path:
    """Bytes or a path from a folder, alone or as `{bytes, path}`."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    return io.BytesIO(value) if isinstance(value, bytes) else root / str(value)
