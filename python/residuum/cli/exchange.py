"""`residuum export` and `residuum import`: other people's files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from residuum.cli.options import (
    Codec,
    Dtype,
    FilePath,
    StoredDtype,
    debug_option,
    store_argument,
)

if TYPE_CHECKING:
    from pathlib import Path

    from residuum.store import Store


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
@click.option(
    "--dtype",
    type=StoredDtype,
    help="What is written; by default what is stored. int8 is of a store, and lossy.",
)
@click.option(
    "--shard-rows", type=click.IntRange(min=1), metavar="R", help="Of a store: rows in a shard."
)
@click.option(
    "--chunk-rows", type=click.IntRange(min=1), metavar="C", help="Of a store: rows in a chunk."
)
@click.option("--codec", type=Codec, help="Of a store: how chunks are.")
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
        return f"{count(store.n_row, 'row')} of {', '.join(store.sites)}.{_lost(made, store)}"
    beside = made / "export.json" if made.is_dir() else made.with_name(f"{made.stem}.export.json")
    said = json.loads(beside.read_text(encoding="utf-8"))
    rows = " and ".join(count(n, f"{k} row") for k, n in said["selection"]["n_row"].items())
    return f"{rows} of {', '.join(said['arrays'])}."


def _lost(made: Path, store: Store) -> str:
    """Of a store of int8 a line of what that loses, and one of the sites that stayed exact."""
    from residuum.store.show import dtype_text

    sites = [store[name] for name in store.sites]
    lossy = [f"{site.name} is {dtype_text(site)}" for site in sites if site.error is not None]
    kept = [f"{site.name} ({site.stored_dtype})" for site in sites if site.error is None]
    if not lossy:
        return ""
    lines = [f"{made}: {'; '.join(lossy)}."]
    if kept:
        lines.append(f"{made}: {', '.join(kept)} stayed exact: int8 is not for them.")
    return "".join(f"\n{line}" for line in lines)


@click.command("import", short_help="Make a store of activations that are there already.")
@click.argument("activations", nargs=-1, required=True, type=FilePath, metavar="ACTIVATIONS...")
@click.option("-o", "--out", required=True, metavar="RUN", type=FilePath, help="The store to make.")
@click.option(
    "--site",
    "sites",
    multiple=True,
    metavar="SITE",
    help="The site of the files, or one --site for each; else their names say it.",
)
@click.option(
    "--layer",
    "of_layers",
    multiple=True,
    type=click.IntRange(min=0),
    metavar="5",
    help="The layer of the files, or one --layer for each.",
)
@click.option("--layers", metavar="0:4", help="The layers along the axis of files that have one.")
@click.option("--n-layer", type=click.IntRange(min=1), metavar="N", help="Layers of the model.")
@click.option("--tensor", metavar="NAME", help="The tensor of a file that holds several.")
@click.option(
    "--table",
    type=FilePath,
    metavar="FILE",
    help="What the rows are: .parquet, .csv, .jsonl; with columns example and token a record per "
    "row, else per example.",
)
@click.option("--dtype", type=Dtype, help="What is stored; by default what the files hold.")
@click.option("--model-name", metavar="NAME", help="The model they come from, for the record.")
@click.option(
    "--shard-rows", type=click.IntRange(min=1), metavar="R", help="Rows in a shard (8192)."
)
@click.option("--chunk-rows", type=click.IntRange(min=1), metavar="C", help="Rows in a chunk.")
@click.option(
    "--codec",
    type=Codec,
    default="none",
    show_default=True,
    help="How chunks are stored.",
)
@click.option("--memory", metavar="1GB", help="What may be held (1GB).")
@click.option("--allow-nonfinite", is_flag=True, help="Keep NaN and infinite activations.")
@debug_option
def import_(
    activations: tuple[Path, ...],
    out: Path,
    sites: tuple[str, ...],
    of_layers: tuple[int, ...],
    tensor: str | None,
    **options: Any,  # noqa: ANN401
) -> None:
    """Make the store RUN of ACTIVATIONS: .npy, .safetensors or torch.save files.

    Files of one layer are [row, d_model] or [example, token, d_model] (or head, d_head); those of
    several have a layer axis before d_model. A folder that residuum export made says all itself.
    """
    from residuum.exchange import import_files
    from residuum.store.show import count

    store = import_files(
        out, activations, sites=sites, of_layers=of_layers, tensor=tensor, **options
    )
    amount = f"{count(store.n_example, 'example')}, {count(store.n_row, 'row')}"
    click.echo(f"{out}: {amount} of {', '.join(store.sites)}.", err=True)
