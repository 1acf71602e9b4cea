"""Progress: a bar at a terminal, nothing anywhere else."""

import io

from rich.console import Console

from residuum.progress import Bar, Quiet, reporter


def test_quiet_where_stderr_is_no_terminal(capfd):
    assert isinstance(reporter("capture", show=None), Quiet)
    assert isinstance(reporter("capture", show=False), Quiet)
    assert isinstance(reporter("capture", show=True), Bar)
    with reporter("capture", show=None) as quiet:
        quiet.start(10, 0)
        quiet.advance(done=3, rows=40, n_bytes=10**9)
    assert capfd.readouterr() == ("", "")


def drawn(total):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with Bar("capture", console) as bar:
        bar.start(total, 2)
        bar.advance(done=3, rows=40, n_bytes=1_500_000_000)
        bar.advance(done=1, rows=2, n_bytes=500_000_000)
    return out.getvalue()


def test_bar_shows_examples_speed_and_size():
    said = drawn(10)
    assert all(word in said for word in ["6/10", "rows/s", "2 GB"])


def test_bar_of_a_stream_has_no_end():
    assert "6/?" in drawn(None)
