"""`residuum lens`: tuned lenses in and out of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from residuum.cli.options import FilePath, debug_option, store_argument
from residuum.errors import ArgumentError

if TYPE_CHECKING:
    from pathlib import Path

    from residuum.lenses import TunedLens


@click.command(short_help="Take a tuned lens in, or write one.")
@store_argument
@click.argument("name")
@click.option(
    "--from",
    "source",
    type=FilePath,
    metavar="FOLDER",
    help="Keep a published checkpoint as NAME, or the file lenses/….safetensors of another store.",
)
@click.option(
    "--to", "target", type=FilePath, metavar="FOLDER", help="Write NAME as a checkpoint there."
)
@debug_option
def lens(store: str, name: str, source: Path | None, target: Path | None) -> None:
    """Keep a tuned lens in the store RUN as NAME, or write that one for the package tuned-lens.

    A checkpoint is a folder with config.json and params.pt, which is read without running a
    pickle's code. `residuum run tuned_lens` trains a lens; `residuum info` names those of a store.
    """
    from residuum import open as open_store
    from residuum.lenses import names, publish, save, stored

    if (source is None) == (target is None):
        message = "give --from to take a lens in, or --to to write one."
        raise click.UsageError(message)
    opened = open_store(store)
    if target is not None:
        publish(stored(opened, name), target, opened.weights.get("W_U"))
        click.echo(f"{target}: {name} of {store}", err=True)
    elif source is not None:
        if name in names(opened):
            message = f"{store} has a lens {name!r}: give the new one another name."
            raise ArgumentError(message)
        save(opened, _read(source), name)
        click.echo(f"{store}: {name} from {source}", err=True)


def _read(source: Path) -> TunedLens:
    """A lens of a folder, or of a file."""
    from residuum.lenses import published
    from residuum.lenses.stored import read

    return read(source) if source.is_file() else published(source)
