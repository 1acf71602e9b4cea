"""What a failed command says, and its exit code."""

from __future__ import annotations

import os
import sys
import textwrap

import click

from residuum.cli.options import debugging
from residuum.errors import ResiduumError

FAILED = 1
USAGE = 2


def report_failure(error: BaseException) -> int:
    """Say on stderr what went wrong; return the exit code.

    Raises:
        BaseException: the error itself, where `--debug` asked for its traceback.
    """
    if isinstance(error, BrokenPipeError):
        # The reader has what it wanted (`| head`). Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    if isinstance(error, click.UsageError):
        error.show()
        return USAGE
    if debugging:
        raise error
    if isinstance(error, KeyboardInterrupt | click.Abort) or _is_duckdbs_interrupt(error):
        _say(_ended(str(error) or "Interrupted"))
    elif isinstance(error, click.ClickException):
        _say(error.format_message())
    elif isinstance(error, ResiduumError | OSError | ImportError):
        _say(" ".join([_ended(str(error)), *getattr(error, "__notes__", ())]))
    elif _is_duckdb(error):
        click.echo(str(error), err=True)  # as DuckDB laid it out: it points at the query
    else:
        _say(
            f"{type(error).__name__}: {error} (an error that was not foreseen; --debug shows where)"
        )
    return FAILED


def show_warning(message: Warning | str, *_where: object) -> None:
    """Say a warning as a line, without its place in the code."""
    click.echo(f"Warning: {message}", err=True)


def _is_duckdb(error: BaseException) -> bool:
    return any(c.__module__.split(".")[0] in {"duckdb", "_duckdb"} for c in type(error).__mro__)


def _is_duckdbs_interrupt(error: BaseException) -> bool:
    """Whether this is Ctrl-C, as DuckDB passes it on."""
    return isinstance(error, RuntimeError) and str(error) == "Query interrupted"


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


def _say(message: str) -> None:
    paragraph = " ".join(message.split())
    width = 100 if sys.stderr.isatty() else sys.maxsize
    filled = textwrap.fill(f"Error: {paragraph}", width, break_long_words=False)
    click.echo(filled, err=True)
