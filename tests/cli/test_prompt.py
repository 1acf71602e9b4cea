"""The prompt of `residuum sql RUN` at a terminal: what ends a statement, a mistake, the session."""

import os
import pty
import select
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from command import hear_ctrl_c
from store import made

from residuum.cli.statements import cut_end

READY, MORE = "residuum> ", "...> "
CTRL_C, CTRL_D = "\x03", "\x04"

# The terminal is to be the session's own, so that Ctrl-C is a signal.
PROGRAM = """
import fcntl, os, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from residuum.cli import main
main()
"""


class Terminal:
    """A session of the prompt on a terminal of its own."""

    def __init__(self, process, handle):
        self.process, self._handle = process, handle

    def expect(self, word, seconds=60):
        """What was shown until `word` was."""
        shown = ""
        end = time.monotonic() + seconds
        while word not in shown:
            ready, _, _ = select.select([self._handle], [], [], max(0, end - time.monotonic()))
            assert ready, f"{word!r} did not come: {shown!r}"
            shown += os.read(self._handle, 1 << 16).decode(errors="replace")
        return shown

    def type(self, text, word=READY):
        """Type a line; returns what was shown up to the next prompt."""
        os.write(self._handle, text.encode())
        return self.expect(word)


@contextmanager
def terminal(store):
    handle, there = pty.openpty()
    command = [sys.executable, "-c", PROGRAM, "sql", str(store)]
    env = {**os.environ, "TERM": "dumb"}
    process = subprocess.Popen(
        command, stdin=there, stdout=there, stderr=there, env=env, preexec_fn=hear_ctrl_c
    )
    os.close(there)
    try:
        yield Terminal(process, handle)
    finally:
        process.kill()
        process.wait()
        os.close(handle)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return made.write(tmp_path_factory.mktemp("prom pt ü") / "run.residuum").path


def test_a_session(store):
    with terminal(store) as session:
        assert ".exit or Ctrl-D" in session.expect(READY)
        session.type("SELECT 40 + 2\n", MORE)
        session.type("AS ü, ';\n", MORE)
        assert "42" in session.type("' AS b; -- the end\n")
        assert "Parser Error" in session.type("SELEC;\n")
        assert "37" in session.type("SELECT 0; SELECT count(*) FROM embed;\n")
        session.type("SELECT nonsense\n", MORE)
        time.sleep(0.5)  # readline shows its prompt a moment before it looks for Ctrl-C
        session.type(CTRL_C)
        session.type("SELECT sum(range) FROM range(1000000000000);\n", "000);")
        time.sleep(1)
        assert "nterrupted" in session.type(CTRL_C)
        assert "43" in session.type("SELECT 43;\n")
        session.type(CTRL_D, "\n")
        assert session.process.wait(30) == 0


@pytest.mark.parametrize(
    ("query", "rest", "closed"),
    [
        ("SELECT 1", "SELECT 1", False),
        ("SELECT 'ü' ;\n", "SELECT 'ü' ", True),
        ("SELECT ';'", "SELECT ';'", False),
        ("SELECT ';", "SELECT ';", False),
        ("SELECT 1; -- é; x\n; /* ; */", "SELECT 1", True),
        ("SELECT 1 -- no end;", "SELECT 1 ", False),
        (" ; ", " ", True),
        ("", "", False),
    ],
)
def test_the_end_of_a_statement(query, rest, closed):
    assert cut_end(query) == (rest, closed)
