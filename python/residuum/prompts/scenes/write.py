"""Pictures as files: what a capture reads, and the masks beside it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from residuum.errors import ArgumentError

if TYPE_CHECKING:
    from os import PathLike

    from residuum.prompts.scenes.pictures import Pictures


def write(pictures: Pictures, folder: str | PathLike[str]) -> Path:
    """Write pictures into a folder, which is made where there is none and holds no pictures yet.

        images.parquet     a row each: `image` (PNG bytes and file name), `caption`, the labels
        images/00000.png   the same PNGs as files
        masks.npy          bool [example, SIDE, SIDE], in the order of the rows

    Masks are no pictures, so that a folder of pictures holds nothing else.

    Returns:
        The path of `images.parquet`, which `residuum.capture` reads as it is: the PNGs are in it,
        and caption and labels come to stand in the store's `examples`.

    Raises:
        ArgumentError: the folder holds pictures already, which would be captured with these.
        OSError: the folder cannot be written.
    """
    import PIL.Image  # a part of residuum[capture]: drawing needs nothing but numpy

    root = Path(folder)
    if (root / "images").exists():
        message = f"{root} holds pictures already: name a new folder, or remove that one"
        raise ArgumentError(message)
    (root / "images").mkdir(parents=True)
    rows = []
    for example, pixels in enumerate(pictures.pixels):
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels).save(buffer, format="PNG")
        name = f"images/{example:05}.png"
        (root / name).write_bytes(buffer.getvalue())
        rows.append({"bytes": buffer.getvalue(), "path": name})
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {name: pa.array(column.tolist()) for name, column in pictures.labels.items()}
    table = {"image": pa.array(rows, image), "caption": pa.array(pictures.captions), **columns}
    np.save(root / "masks.npy", pictures.masks)
    pq.write_table(pa.table(table), root / "images.parquet")
    return root / "images.parquet"
