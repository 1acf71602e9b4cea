"""Export as `.npy`: one file per site, `[row, layer, ...]`, in numpy's own format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from numpy.lib import format as npy_format

from residuum.exchange.job import refuse_bfloat16

if TYPE_CHECKING:
    from residuum.exchange.job import Job
    from residuum.exchange.selection import Chosen, Selection


def check(selection: Selection) -> None:
    """Refuse what the format cannot hold.

    Raises:
        ArgumentError: a site of bfloat16.
    """
    refuse_bfloat16(selection, "npy")


def write(job: Job) -> None:
    """Write every site, what its rows are, and the manifest."""
    arrays = {}
    for chosen in job.selection.sites:
        _write_site(job, chosen, f"{chosen.name}.npy")
        arrays[chosen.name] = job.array(chosen, f"{chosen.name}.npy")
    job.write_records()
    job.write_manifest("npy", arrays)


def _write_site(job: Job, chosen: Chosen, file: str) -> None:
    """Rows are the first axis, so that blocks of them follow one another in the file.

    Not through a memory map: a full disk would be a signal there, and no error.
    """
    shape = (job.selection.rows_of(chosen).n, *chosen.row_shape)
    header = {
        "descr": npy_format.dtype_to_descr(chosen.dtype.newbyteorder("<")),
        "fortran_order": False,
        "shape": shape,
    }
    with (job.folder / file).open("xb") as out:
        npy_format.write_array_header_1_0(out, header)
        for values in job.blocks(chosen, chosen.layers or None):
            out.write(values.data)
