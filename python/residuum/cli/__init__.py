"""The command line: arguments to calls, results to text or JSON.

Errors are one paragraph on stderr; the exit code is 0 (done), 1 (the question failed: bad input, a
damaged store) or 2 (wrong usage). Commands import what they need when they run, so that `--help`
is there at once and asking a store needs no torch.

    main ──▶ capture · info · verify · sql · analyses · run · report · lens · export · import
"""

from __future__ import annotations

import sys
import warnings

import click

from residuum.cli.analyses import analyses, report, run
from residuum.cli.ask import info, sql, verify
from residuum.cli.capture import capture
from residuum.cli.errors import report_failure, show_warning
from residuum.cli.exchange import export, import_
from residuum.cli.lens import lens
from residuum.cli.options import debug_option

__all__ = ["main", "run_command"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="residuum")
@debug_option
def cli() -> None:
    """Capture a model's activations once; ask them many times."""


for command in (capture, info, verify, sql, analyses, run, report, lens, export, import_):
    cli.add_command(command)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run the command line on arguments; return the exit code."""
    warnings.showwarning = show_warning  # type: ignore[assignment]  # called by position
    try:
        with cli.make_context("residuum", arguments) as context:
            cli.invoke(context)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except BaseException as error:  # noqa: BLE001 - the last resort; --debug raises it again
        return report_failure(error)
    return 0
