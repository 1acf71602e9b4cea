"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

DEBUG = "residuum.debug"


def _remember_debug(context: click.Context, _option: click.Parameter, value: bool) -> None:  # noqa: FBT001
    if value:
        debugging.append(context.command_path)


debugging: list[str] = []
"""Not empty when a traceback was asked for; outlives the context, which an error tears down."""

debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_remember_debug,
    help="Show the traceback of an error.",
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document and nothing else."
)

store_argument = click.argument("store", metavar="RUN", type=click.Path(path_type=str))

FilePath = click.Path(path_type=Path)


class _Dtype(click.Choice[str]):
    """A dtype; int8 passes too, because what refuses it says how it is made."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The dtype's name."""
        return value if value == "int8" else super().convert(value, param, ctx)


# Not from `residuum.store.plan`, which takes a second to load and `--help` does not need.
Dtype = _Dtype(["float32", "float16", "bfloat16"])
StoredDtype = click.Choice(["float32", "float16", "bfloat16", "int8"])
Codec = click.Choice(["none", "zstd"])
