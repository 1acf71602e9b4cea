"""The SQL prompt: statements end with a semicolon, errors do not end the session."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING

import click

from residuum.cli.interrupt import stopped_by_ctrl_c
from residuum.cli.output import write_relation
from residuum.cli.statements import answers, cut_end

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb

_FIRST = "residuum> "
_MORE = "     ...> "
_HELP = (
    "Statements end with ; · SHOW TABLES; lists what there is · Ctrl-C drops what was typed · "
    ".exit or Ctrl-D leaves."
)


def prompt(connection: duckdb.DuckDBPyConnection, form: str) -> None:
    """Answer statements from a terminal until it ends."""
    import duckdb

    with contextlib.suppress(ImportError):  # not every Python has it
        importlib.import_module("readline")  # line editing and history for input()
    click.echo(_HELP, err=True)
    for typed in _statements():
        try:
            with stopped_by_ctrl_c(connection):
                for relation in answers(connection, connection.extract_statements(typed)):
                    write_relation(relation, form, None)
        except (duckdb.Error, RuntimeError, KeyboardInterrupt) as error:
            # A RuntimeError is what DuckDB makes of Ctrl-C where it sees it itself.
            click.echo(str(error) or "Query interrupted", err=True)


def _statements() -> Iterator[str]:
    """What was typed, cut behind lines that end with a semicolon; the last may lack it."""
    pending = ""
    while True:
        try:
            line = input(_MORE if pending else _FIRST)
        except EOFError:
            click.echo(err=True)
            break
        except KeyboardInterrupt:  # drop the statement, as other prompts do
            click.echo(err=True)
            pending = ""
            continue
        if line.strip() in {".exit", ".quit"}:
            break
        pending += f"{line}\n"
        if cut_end(pending)[1]:
            yield pending
            pending = ""
    if pending.strip():
        yield pending
