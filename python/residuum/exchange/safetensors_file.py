"""Export as one `.safetensors` file: one tensor per site and layer, `z.5`, bfloat16 as it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from residuum.store.tensor_file import header_bytes

if TYPE_CHECKING:
    from residuum.exchange.job import Job
    from residuum.exchange.selection import Chosen

FILE = "activations.safetensors"


def tensor_name(site: str, layer: int | None) -> str:
    """`z.5`, or the site alone where it has no layers."""
    return site if layer is None else f"{site}.{layer}"


def write(job: Job) -> None:
    """Write the tensors, what their rows are, and the manifest, which the header holds too."""
    tensors = _tensors(job)
    arrays = {c.name: job.array(c, FILE) for c in job.selection.sites}
    shapes = {
        tensor_name(c.name, layer): (c.dtype, (job.selection.rows_of(c).n, *c.array.row_shape))
        for c, layer in tensors
    }
    manifest = json.dumps(job.manifest("safetensors", arrays), ensure_ascii=False)
    with (job.folder / FILE).open("xb") as out:
        out.write(header_bytes(shapes, {"residuum": manifest}))
        for chosen, layer in tensors:
            for values in job.blocks(chosen, layer):
                out.write(values.view("u1").data)
    job.write_records()
    job.write_manifest("safetensors", arrays)


def _tensors(job: Job) -> list[tuple[Chosen, int | None]]:
    """Sites and layers; wide types first, so that every tensor starts at a multiple of its type."""
    sites = sorted(job.selection.sites, key=lambda chosen: -chosen.dtype.itemsize)
    return [(chosen, layer) for chosen in sites for layer in chosen.each_layer]
