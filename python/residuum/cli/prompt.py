"""The SQL prompt: statements end with a semicolon, errors do not end the session."""

from __future__ import annotations

import contextlib
import importlib
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import click

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
            _answer(connection, typed, form)
        except duckdb.Error as error:
            click.echo(str(error), err=True)


def _answer(connection: duckdb.DuckDBPyConnection, typed: str, form: str) -> None:
    """Run what was typed. On a thread, because DuckDB looks for Ctrl-C only now and then."""

    def run() -> None:
        for relation in answers(connection, connection.extract_statements(typed)):
            write_relation(relation, form, None)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(run)
        while not done.done():
            try:
                wait([done])
            except KeyboardInterrupt:
                connection.interrupt()
    done.result()


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
