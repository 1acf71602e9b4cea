"""A capture that is killed at any moment opens at its last commit and, resumed, ends as if it had
not been.

The failure that this prevents: a store that looks complete and is not, or whose bytes depend on how
often the machine went down. Killed with SIGKILL, so that no handler runs.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from trees import assert_same, files

import residuum
from residuum.capture.tracer import Tracer

# A process that has imported everything and forks one capture for each order: importing takes
# longer
# than any of these captures. It runs nothing itself, so that no thread is lost in a fork. Captures
# are
# slowed down, so that a kill meets every phase also on a quick machine.
FORKER = """
import json, os, sys, time, traceback
import torch
import residuum
from residuum.capture import run as _
from residuum.capture.layerwise.stage_pass import StageTracer
from residuum.capture.tracer import Tracer

torch.set_num_threads(1)

def slow(kind, pause):
    run = kind.run
    def slowly(self, batch, sink):
        time.sleep(pause)
        run(self, batch, sink)
    kind.run = slowly

for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        slow(Tracer, order["pause"])
        slow(StageTracer, order["pause"])
        try:
            residuum.capture(order["model"], order["inputs"], order["out"], **order["settings"])
        except BaseException:
            with open(order["error"], "w") as file:
                traceback.print_exc(file=file)
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
SETTINGS = {
    "sites": ["resid_post", "z", "pattern", "resid_final"],
    "batch_tokens": 14,
    "shard_rows": 32,
    "chunk_rows": 8,
    "device": "cpu",
}
FIRST = {"sites": ["resid_post"], "layers": [0, 2]}
LATER = {"sites": ["resid_post", "z", "pattern"], "layers": [1]}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small gain nothing from threads, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    rng = np.random.default_rng(1)
    words = ["the", "a", "red", "blue", "square", "circle", "star", "dog", "cat", "runs", "sees"]
    texts = [" ".join(rng.choice(words, rng.integers(1, 14))) for _ in range(120)]
    texts[17] = texts[3]
    texts[90] = texts[50]
    path = tmp_path_factory.mktemp("inputs") / "texts.txt"
    path.write_text("\n".join(texts))
    return path


@pytest.fixture(scope="module", params=["none", "zstd"])
def settings(request):
    return SETTINGS | {"codec": request.param}


@pytest.fixture(scope="module")
def whole(gpt2_folder, inputs, settings, tmp_path_factory):
    """An uninterrupted capture."""
    out = tmp_path_factory.mktemp("whole") / "run"
    residuum.capture(gpt2_folder, inputs, out, **settings)
    return out


class Child:
    """A capture in a process of its own, to be killed."""

    def __init__(self, forker, order):
        self._forker = forker
        self._error = Path(order["error"])
        forker.stdin.write(json.dumps(order) + "\n")
        forker.stdin.flush()
        self.pid = int(forker.stdout.readline())

    def end(self, sent):
        """Send a signal and wait; returns the exit code and what was raised."""
        # The forker has not waited for the process yet or just now, so that the number is still
        # its own.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, sent)
        code = int(self._forker.stdout.readline())
        return code, self._error.read_text() if self._error.exists() else ""


@pytest.fixture(scope="module")
def forker():
    command = [sys.executable, "-c", FORKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one:
        yield one
        one.stdin.close()


@pytest.fixture
def start(forker, gpt2_folder, inputs, settings, tmp_path):
    def start(out, pause=0.02, **more):
        error = tmp_path / "error.txt"
        error.unlink(missing_ok=True)
        paths = {"model": gpt2_folder, "inputs": inputs, "out": out, "error": error}
        order = {name: str(path) for name, path in paths.items()}
        return Child(forker, {**order, "pause": pause, "settings": settings | more})

    return start


def finish(gpt2_folder, inputs, out, settings):
    """Resume in this process; return the number of forward passes."""
    run, passes = Tracer.run, []

    def counting(self, batch, sink):
        passes.append(1)
        run(self, batch, sink)

    Tracer.run = counting
    try:
        residuum.capture(gpt2_folder, inputs, out, **settings, resume=True)
    finally:
        Tracer.run = run
    return len(passes)


def assert_whole(one: Path, two: Path):
    assert_same(one, two)
    assert residuum.open(one).complete
    assert residuum.store.verify(one).ok


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the capture did not get there"
        time.sleep(0.005)


def n_commits(out):
    return len(list((out / "commits").glob("*.json"))) if (out / "commits").exists() else 0


@pytest.mark.parametrize("commits", [0, 1, 3])
def test_killed_and_resumed_is_bit_for_bit_the_same(
    gpt2_folder, inputs, settings, whole, start, tmp_path, commits
):
    out = tmp_path / "run"
    child = start(out)
    wait_for(lambda: n_commits(out) > commits)
    assert child.end(signal.SIGKILL)[0] == -signal.SIGKILL
    store = residuum.open(out)
    assert store.commit >= commits
    assert not store.complete
    assert residuum.store.verify(out).ok, "before it is resumed, too"
    assert store["z"].read().shape[0] == store.n_row
    every = finish(gpt2_folder, inputs, tmp_path / "count", settings)
    rest = finish(gpt2_folder, inputs, out, settings)
    assert rest < every or commits == 0, "what is committed is not computed again"
    assert rest > 0
    assert_whole(out, whole)


def test_killed_again_and_again(gpt2_folder, inputs, settings, whole, start, tmp_path):
    out = tmp_path / "run"
    dice = random.Random(5)
    for _ in range(6):
        child = start(out, resume=True)
        time.sleep(dice.uniform(0.1, 1.0))
        child.end(dice.choice([signal.SIGKILL, signal.SIGINT]))
        if out.exists():
            assert residuum.store.verify(out).ok
    finish(gpt2_folder, inputs, out, settings)
    assert_whole(out, whole)


def test_interrupt_commits_what_is_complete(gpt2_folder, inputs, settings, whole, start, tmp_path):
    out = tmp_path / "run"
    child = start(out, pause=0.05)
    wait_for(lambda: n_commits(out) > 2)
    before = residuum.open(out).n_example
    code, error = child.end(signal.SIGINT)
    assert code == 1
    assert "KeyboardInterrupt" in error
    assert "--resume" in error
    store = residuum.open(out)
    assert before <= store.n_example < 120
    assert not store.complete
    assert residuum.store.verify(out).ok
    finish(gpt2_folder, inputs, out, settings)
    assert_whole(out, whole)


@pytest.fixture(scope="module")
def grown(gpt2_folder, inputs, settings, tmp_path_factory):
    """A store, and the same with what `LATER` adds."""
    folder = tmp_path_factory.mktemp("grown")
    for name in ("before", "after"):
        residuum.capture(gpt2_folder, inputs, folder / name, **settings | FIRST)
    residuum.capture(gpt2_folder, inputs, folder / "after", **settings | LATER, append=True)
    return folder


@pytest.mark.parametrize("commits", [0, 1, 3])
def test_killed_while_it_grows_and_resumed_is_bit_for_bit_the_same(
    gpt2_folder, inputs, settings, grown, start, tmp_path, commits
):
    out = tmp_path / "run"
    shutil.copytree(grown / "before", out)
    before = residuum.open(out)
    child = start(out, append=True, **LATER)
    wait_for(lambda: n_commits(out) > before.commit + 1 + commits)
    assert child.end(signal.SIGKILL)[0] == -signal.SIGKILL
    store = residuum.open(out)
    assert (store.sites, store.n_example) == (before.sites, before.n_example)
    assert not store.complete
    assert residuum.store.verify(out).ok
    np.testing.assert_array_equal(store["resid_post"].read(), before["resid_post"].read())
    finish(gpt2_folder, inputs, out, settings | LATER)
    assert_whole(out, grown / "after")


def test_killed_again_and_again_while_it_grows(
    gpt2_folder, inputs, settings, grown, start, tmp_path
):
    out = tmp_path / "run"
    shutil.copytree(grown / "before", out)
    dice = random.Random(7)
    for _ in range(5):
        growing = residuum.open(out).growth is not None
        child = start(out, **{"resume" if growing else "append": True}, **LATER)
        time.sleep(dice.uniform(0.1, 1.0))
        child.end(dice.choice([signal.SIGKILL, signal.SIGINT]))
        assert residuum.store.verify(out).ok
        assert residuum.open(out).sites[0] == "resid_post"
    done = residuum.open(out)
    if done.complete and done.growth is None and "z" not in done:
        residuum.capture(gpt2_folder, inputs, out, **settings | LATER, append=True)
    finish(gpt2_folder, inputs, out, settings | LATER)
    assert_whole(out, grown / "after")


LAYERWISE = {"schedule": "layerwise", "sites": ["resid_post", "z"], "layers": [0, 2]}


@pytest.fixture(scope="module")
def by_layer(gpt2_folder, inputs, settings, tmp_path_factory):
    """An uninterrupted capture by the schedule layerwise."""
    out = tmp_path_factory.mktemp("by_layer") / "run"
    residuum.capture(gpt2_folder, inputs, out, **settings | LAYERWISE)
    return out


def arrays(path):
    """Bytes of everything but the commits, whose number tells how often a layer was begun."""
    return {name: data for name, data in files(path).items() if not name.startswith("commits")}


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_killed_in_the_middle_of_a_layer_and_resumed(
    gpt2_folder, inputs, settings, by_layer, start, tmp_path, stage
):
    out = tmp_path / "run"
    child = start(out, **LAYERWISE)
    part = out / f"staging/stream/{stage}.part" if stage else out / "staging/stream/0.bin"
    wait_for(lambda: part.exists())
    time.sleep(0.2)
    assert child.end(signal.SIGKILL)[0] == -signal.SIGKILL
    store = residuum.open(out)
    assert store.n_example == 120
    assert not store.complete
    assert residuum.store.verify(out).ok
    finish(gpt2_folder, inputs, out, settings | LAYERWISE)
    assert arrays(out) == arrays(by_layer)
    assert residuum.store.verify(out).ok


def test_a_layerwise_capture_killed_again_and_again(
    gpt2_folder, inputs, settings, by_layer, start, tmp_path
):
    out = tmp_path / "run"
    dice = random.Random(3)
    for _ in range(6):
        child = start(out, pause=0.01, resume=True, **LAYERWISE)
        time.sleep(dice.uniform(0.1, 1.2))
        child.end(dice.choice([signal.SIGKILL, signal.SIGINT]))
        if out.exists():
            assert residuum.store.verify(out).ok
    finish(gpt2_folder, inputs, out, settings | LAYERWISE)
    assert arrays(out) == arrays(by_layer)


@pytest.mark.slow
def test_kill_campaign(gpt2_folder, inputs, settings, whole, start, tmp_path):
    """Kills and interrupts at random moments, until there is nothing left to kill."""
    dice = random.Random(11)
    for number in range(25):
        out = tmp_path / f"run{number}"
        for _ in range(8):
            child = start(out, pause=0.005, resume=True)
            time.sleep(dice.uniform(0.05, 1.0))
            child.end(dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT]))
            if out.exists():
                assert residuum.store.verify(out).ok
        finish(gpt2_folder, inputs, out, settings)
        assert_whole(out, whole)
