"""The command line in this process: quicker than a new one, with the same exit codes and "
"streams."""

import contextlib
import io
import signal
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from residuum.cli import run_command
from residuum.cli.options import debugging


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


def residuum(*arguments: object, code: int | None = 0) -> Done:
    """Run the command line; fails unless it exits with `code` (None: any)."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    debugging.clear()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        left = run_command([str(argument) for argument in arguments])
    out.flush()
    done = Done(left, out.buffer.getvalue().decode(), err.getvalue())
    assert code is None or done.code == code, f"exit {done.code}\n{done.out}\n{done.err}"
    return done


def hear_ctrl_c() -> None:
    """Before a child begins: a shell starts what it runs in the background with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that hears Ctrl-C and ends with the block."""
    started = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    with started:
        try:
            yield started
        finally:
            started.kill()


def one_paragraph(done: Done) -> str:
    """The error on stderr, checked to be one paragraph without a traceback."""
    lines = done.err.strip().splitlines()
    said = [line for line in lines if line.startswith("Error: ")]
    assert len(said) == 1, done.err
    assert "Traceback" not in done.err
    return said[0]
