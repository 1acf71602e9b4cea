"""`residuum analyses`, `residuum run` and `residuum report`: questions with a name."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from residuum.cli.options import FilePath, debug_option, json_option, store_argument
from residuum.cli.output import print_json, write_text
from residuum.errors import ArgumentError, SiteError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pyarrow as pa

    from residuum.analyses.registry import Analysis
    from residuum.analyses.result import Result
    from residuum.store import Store


@click.command(short_help="List what can be asked.")
@json_option
@debug_option
def analyses(*, as_json: bool) -> None:
    """List the analyses with their parameters, sites and papers."""
    from residuum.analyses import registry

    found = [analysis.describe() for analysis in registry.registered().values()]
    if as_json:
        print_json(found)
        return
    for one in found:
        click.echo(f"{one['name']}  {one['title']}")
        needs = ", ".join(" or ".join(need) for need in one["sites"])
        exact = ", exact: no int8" if one["exact"] else ""
        click.echo(f"    needs {needs or 'any site'}{exact}")
        for parameter in one["parameters"]:
            default = f" = {_plain(parameter['default'])}" if "default" in parameter else ""
            click.echo(f"    {parameter['name']}{default}  {parameter['meaning']}")
        if one["source"]:
            click.echo(f"    {one['source']}")


def _plain(value: object) -> str:
    """A default as `--set` takes it."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)


@click.command(short_help="Ask one of them.")
@click.argument("analysis")
@store_argument
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="name=value",
    help="Set a parameter, one --set each.",
)
@click.option(
    "-o", "--out", type=FilePath, metavar="DIR", help="Write the tables as Parquet there."
)
@json_option
@debug_option
def run(
    analysis: str, store: str, settings: tuple[str, ...], out: Path | None, *, as_json: bool
) -> None:
    """Run ANALYSIS on the store RUN; the answer is kept in the store and read when asked again."""
    from residuum import open as open_store
    from residuum.analyses import registry

    asked, parameters = registry.find(analysis), _parsed(settings)
    result = asked.run(open_store(store), **parameters)
    if out is not None:
        _write_tables(result.tables, out)
    if as_json:
        print_json(result.to_json())
    elif out is None:
        click.echo(repr(result))
        for name, table in result.tables.items():
            click.echo(f"\n{name}")
            _show(table)


def _parsed(settings: tuple[str, ...]) -> dict[str, object]:
    parsed: dict[str, object] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            message = f"--set {setting}: write name=value."
            raise click.UsageError(message)
        if name in parsed:
            message = f"--set {name} was given twice: write its values in one, {name}=a,b."
            raise click.UsageError(message)
        parsed[name] = value
    return parsed


def _write_tables(tables: Mapping[str, pa.Table], out: Path) -> None:
    import pyarrow.parquet as pq

    from residuum.store.show import count

    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        pq.write_table(table, out / f"{name}.parquet")
        click.echo(f"{out / name}.parquet: {count(table.num_rows, 'row')}", err=True)


def _show(table: pa.Table) -> None:
    import duckdb

    click.echo(str(duckdb.connect().from_arrow(table)))


@click.command(short_help="Make one HTML file of the answers.")
@store_argument
@click.argument("names", nargs=-1, metavar="[ANALYSIS]...")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="name=value",
    help="Set a parameter of the one ANALYSIS, one --set each.",
)
@click.option("-o", "--out", required=True, type=FilePath, metavar="report.html", help="The file.")
@debug_option
def report(store: str, names: tuple[str, ...], settings: tuple[str, ...], out: Path) -> None:
    """Draw the answers of analyses on the store RUN in one HTML file that works offline.

    Without names: every analysis whose sites the store has; one whose defaults do not fit the
    store is left out, and why is said. Of an analysis that trains, such as tuned_lens, the answer
    that was computed last is drawn, unless --set or its defaults name another that is kept; of one
    that rests on what is named to it, such as clip_decomposition, the last one, unless --set says
    which.
    """
    from residuum import open as open_store
    from residuum.analyses import registry
    from residuum.report import StoreCard, build

    parameters = _parsed(settings)
    if parameters and len(names) != 1:
        message = "--set is of one analysis: name it, and no other."
        raise click.UsageError(message)
    opened = open_store(store)
    asked = [registry.find(name) for name in names] or registry.answerable(opened)
    if not asked:
        message = (
            f"{store} has the sites of no analysis: `residuum analyses` lists what each needs."
        )
        raise SiteError(message)
    results = []
    for analysis in asked:
        try:
            results.append(_answer(analysis, opened, parameters))
        except (ArgumentError, SiteError) as error:
            if names:
                raise
            click.echo(f"left out: {error}", err=True)
    if not results:
        tried = ", ".join(analysis.name for analysis in asked)
        message = f"there is nothing to report: the defaults of {tried} do not fit {store}."
        raise SiteError(message)
    write_text(out, build(StoreCard.of(opened.info()), results))
    click.echo(f"{out}: {', '.join(result.analysis for result in results)}", err=True)


def _answer(analysis: Analysis, store: Store, parameters: Mapping[str, object]) -> Result:
    """What is drawn: what was asked for, or of what takes long to compute what there is."""
    if analysis.trains and not parameters:
        # Its defaults can be in the way of a lens that was trained otherwise.
        with suppress(ArgumentError):
            if (kept := analysis.kept(store)) is not None:
                return kept
        if (newest := analysis.newest(store)) is not None:
            return newest
    if analysis.newest_first and not parameters and (newest := analysis.newest(store)) is not None:
        return newest
    return analysis.run(store, **parameters)
