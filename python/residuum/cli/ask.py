"""`residuum info`, `residuum verify` and `residuum sql`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from residuum.cli.options import FilePath, debug_option, json_option, store_argument
from residuum.cli.output import FORMATS, choose_format, print_json, write_relation
from residuum.cli.statements import answers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import duckdb


@click.command(short_help="Say what a store holds.")
@store_argument
@json_option
@debug_option
def info(store: str, *, as_json: bool) -> None:
    """Model, sites, shapes, sizes, results and provenance of the store RUN."""
    import residuum

    opened = residuum.open(store)
    if as_json:
        print_json(opened.info())
    else:
        click.echo(repr(opened))


@click.command(short_help="Check every checksum of a store.")
@store_argument
@json_option
@debug_option
def verify(store: str, *, as_json: bool) -> None:
    """Read all of the store RUN back: checksums, shapes, tables, commits.

    Exit code 1 if anything is wrong, and what is wrong where.
    """
    from residuum.store import verify as verify_store

    report = verify_store(store)
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(repr(report), err=not report.ok)
    if not report.ok:
        raise click.exceptions.Exit(1)


def _print_extension_path(context: click.Context, _option: click.Parameter, value: bool) -> None:  # noqa: FBT001
    if not value or context.resilient_parsing:
        return
    from residuum.query import extension_path

    click.echo(str(extension_path()))
    context.exit()


@click.command(short_help="Ask a store in SQL.")
@store_argument
@click.argument("query", required=False)
@click.option("--format", "form", type=click.Choice(FORMATS), help="How to print the answer.")
@click.option("-o", "--out", type=FilePath, metavar="FILE", help="Write the answer to a file.")
@click.option(
    "--print-extension-path",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_extension_path,
    help="Print the path of the DuckDB extension and exit.",
)
@debug_option
def sql(store: str, query: str | None, form: str | None, out: Path | None) -> None:
    """Ask the store RUN a QUERY in DuckDB's SQL; without one, read statements from the terminal.

    Views: one for each site, examples, tokens, user tables, results. Macros: logit_lens(),
    head_logits(), nearest(). Files named -o FILE.csv, .json or .parquet choose their format.
    """
    import residuum

    connection = residuum.open(store).connect()
    if query is not None:
        for relation in _last(answers(connection, query)):
            write_relation(relation, choose_format(form, out), out)
        return
    if out is not None:
        message = "-o FILE needs a QUERY."
        raise click.UsageError(message)
    from residuum.cli.prompt import prompt

    prompt(connection, form or "table", interactive=sys.stdin.isatty())


def _last(relations: Iterator[duckdb.DuckDBPyRelation]) -> list[duckdb.DuckDBPyRelation]:
    """The last of several results, the one that is printed; the statements before it have run."""
    return list(relations)[-1:]
