"""`residuum export` and `residuum import`: other people's files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from residuum.cli.options import FilePath, debug_option, store_argument

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = click.Choice(["float32", "float16", "bfloat16"])


@click.command(short_help="Write a part of a store for other tools.")
@store_argument
@click.option("-o", "--out", required=True, type=FilePath, metavar="OUT", help="What to make.")
@click.option(
    "--format",
    type=click.Choice(["npy", "safetensors", "dataset", "store"]),
    help="What OUT is; a name that ends in .npy or .safetensors says it too.",
)
@click.option(
    "--site", "sites", multiple=True, metavar="SITE", help="A site to take, one --site each (all)."
)
@click.option("--layers", metavar="0:4", help="Layers to take: 5, 0:4 (0 to 3), 0,5,11 (all).")
@click.option("--rows", metavar="SQL", help="A query that gives the row numbers to take (all).")
@click.option("--dtype", type=DTYPES, help="What is written; by default what is stored.")
@click.option(
    "--shard-rows", type=click.IntRange(min=1), metavar="R", help="Of a store: rows in a shard."
)
@click.option(
    "--chunk-rows", type=click.IntRange(min=1), metavar="C", help="Of a store: rows in a chunk."
)
@click.option("--codec", type=click.Choice(["none", "zstd"]), help="Of a store: how chunks are.")
@click.option("--memory", metavar="1GB", help="What may be held (1GB).")
@debug_option
def export(store: str, out: Path, **options: Any) -> None:  # noqa: ANN401
    """Write sites, layers and rows of the store RUN to OUT for other tools.

    npy: a folder with a file per site. safetensors: a tensor per site and layer. dataset: a folder
    for datasets.load_from_disk. store: another store. Beside them stands what each row is.
    """
    import residuum

    made = residuum.export(store, out, **options | {"sites": options["sites"] or None})
    click.echo(f"{made}: {_told(made)}", err=True)


def _told(made: Path) -> str:
    """What was made, from what stands beside it."""
    import json

    from residuum.store.show import count

    if (made / "zarr.json").is_file():
        import residuum

        store = residuum.open(made)
        return f"{count(store.n_row, 'row')} of {', '.join(store.sites)}."
    beside = made / "export.json" if made.is_dir() else made.with_name(f"{made.stem}.export.json")
    said = json.loads(beside.read_text(encoding="utf-8"))
    rows = " and ".join(count(n, f"{k} row") for k, n in said["selection"]["n_row"].items())
    return f"{rows} of {', '.join(said['arrays'])}."
