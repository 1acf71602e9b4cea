"""`residuum info`, `residuum verify` and `residuum sql`."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import click

from residuum.cli.interrupt import stopped_by_ctrl_c
from residuum.cli.options import FilePath, debug_option, json_option, store_argument
from residuum.cli.output import FORMATS, choose_format, print_json, write_relation
from residuum.cli.statements import answers, may_answer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import duckdb


@click.command(short_help="Say what a store holds.")
@store_argument
@json_option
@debug_option
def info(store: str, *, as_json: bool) -> None:
    """Model, sites, shapes and sizes of the store RUN; with --json also results and provenance."""
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
    """Read all of the store RUN back: checksums, shapes, tables, commits, lenses.

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


class _TakesSql(click.Command):
    """A command of which an argument may start with a comment, `-- like this`, and be no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; a blank before it keeps SQL apart from options."""
        starts_with_comment = re.compile(r"--[^\s=]*\s")
        return super().parse_args(
            ctx, [f" {a}" if starts_with_comment.match(a) else a for a in args]
        )


@click.command(cls=_TakesSql, short_help="Ask a store in SQL.")
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
    """Ask the store RUN a QUERY in DuckDB's SQL; without one, read it from stdin or a prompt.

    Views: one for each site, examples, tokens, user tables, results. Macros: logit_lens(),
    tuned_lens(), head_logits(), nearest(). Files named -o FILE.csv, .json, .parquet or .txt choose
    their format.
    """
    import residuum

    chosen, prompted = choose_format(form, out), query is None and sys.stdin.isatty()
    if prompted and out is not None:
        message = "-o FILE needs a QUERY."
        raise click.UsageError(message)
    connection = residuum.open(store).connect()
    if prompted:
        from residuum.cli.prompt import prompt

        prompt(connection, chosen)
        return
    statements = connection.extract_statements(sys.stdin.read() if query is None else query)
    _check_fits(statements, chosen, out)
    with stopped_by_ctrl_c(connection):
        for relation in answers(connection, statements):
            write_relation(relation, chosen, out)


def _check_fits(statements: Sequence[duckdb.Statement], form: str, out: Path | None) -> None:
    """Check that there is something to run, and one answer where there is room for one."""
    n = sum(map(may_answer, statements))
    place = f"--format {form}" if out is None else f"-o {out}"
    if not statements:
        message = "there is no SQL statement in the query."
    elif n > 1 and not (out is None and form == "table"):
        message = (
            f"{place} holds the answer of one query, but {n} were given: ask them one at a time, "
            "or print them as tables."
        )
    elif n == 0 and out is not None:
        message = f"there is no answer to write with {place}: no statement asks for rows."
    else:
        return
    raise click.UsageError(message)
