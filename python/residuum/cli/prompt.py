"""The SQL prompt: statements end with a semicolon, errors do not end the session."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import click

from residuum.cli.output import write_relation
from residuum.cli.statements import answers

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb

_FIRST = "residuum> "
_MORE = "     ...> "
_HELP = "Statements end with ; · SHOW TABLES; lists what there is · .exit or Ctrl-D leaves."


def prompt(connection: duckdb.DuckDBPyConnection, form: str, *, interactive: bool) -> None:
    """Answer statements from stdin until it ends.

    At a terminal an error is shown and the session goes on; a script ends with its first error.
    """
    import duckdb

    if interactive:
        importlib.import_module("readline")  # line editing and history for input()
        click.echo(_HELP, err=True)
    for statement in _statements(interactive=interactive):
        try:
            for relation in answers(connection, statement):
                write_relation(relation, form, None)
        except duckdb.Error as error:
            if not interactive:
                raise
            click.echo(str(error), err=True)


def _statements(*, interactive: bool) -> Iterator[str]:
    """Statements from stdin; one ends with a line that ends with a semicolon, the last anywhere."""
    pending = ""
    while True:
        try:
            line = input(_MORE if pending else _FIRST) if interactive else sys.stdin.readline()
        except EOFError:
            break
        except KeyboardInterrupt:  # drop the statement, as other prompts do
            click.echo(err=True)
            pending = ""
            continue
        if (not interactive and not line) or line.strip() in {".exit", ".quit"}:
            break
        pending += f"{line}\n"
        if line.rstrip().endswith(";"):
            yield pending
            pending = ""
    if pending.strip():
        yield pending
