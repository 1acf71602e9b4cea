"""A capture that is killed at any moment opens at its last commit and, resumed, ends as if it had
not been.

The failure that this prevents: a store that looks complete and is not, or whose bytes depend on how
often the machine went down. Killed with SIGKILL, so that no handler runs.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import residuum
from residuum.capture.tracer import Tracer

TABLE_SORT = [("example", "ascending")]

# Runs in a process of its own; sleeps so that a kill meets every phase also on a quick machine.
CHILD = """
import sys, time
import residuum
from residuum.capture.tracer import Tracer

run = Tracer.run
def slowly(self, batch, sink):
    time.sleep({pause})
    run(self, batch, sink)
Tracer.run = slowly
print("ready", flush=True)
residuum.capture({model!r}, {inputs!r}, {out!r}, **{settings!r})
"""
SETTINGS = {
    "sites": ["resid_post", "z", "pattern", "resid_final"],
    "batch_tokens": 40,
    "shard_rows": 32,
    "chunk_rows": 8,
    "device": "cpu",
}


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


def start(gpt2_folder, inputs, out, settings, pause=0.01):
    """A capture in a process of its own, past its imports."""
    code = CHILD.format(
        pause=pause, model=str(gpt2_folder), inputs=str(inputs), out=str(out), settings=settings
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


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


def trees(path):
    """Bytes of everything that must not depend on history."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for part in ("activations", "statistics", "index", "weights")
        for file in sorted((path / part).rglob("*"))
        if file.is_file()
    }


def assert_same(one: Path, two: Path):
    left, right = trees(one), trees(two)
    assert sorted(left) == sorted(right)
    assert [name for name in left if left[name] != right[name]] == []
    first, second = residuum.open(one), residuum.open(two)
    assert first.complete
    assert second.complete
    assert first.rows == second.rows
    for name, order in [
        ("examples", TABLE_SORT),
        ("tokens", [*TABLE_SORT, ("token", "ascending")]),
    ]:
        tables = [getattr(store, name).to_table().sort_by(order) for store in (first, second)]
        assert tables[0].equals(tables[1])
        assert isinstance(tables[0], pa.Table)
    assert residuum.store.verify(one).ok
    assert not (one / "staging").exists() or not [
        f for f in (one / "staging").iterdir() if f.suffix != ".lock"
    ]


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the capture did not get there"
        time.sleep(0.005)


def n_commits(out):
    return len(list((out / "commits").glob("*.json"))) if (out / "commits").exists() else 0


@pytest.mark.parametrize("commits", [1, 2, 4])
def test_killed_and_resumed_is_bit_for_bit_the_same(
    gpt2_folder, inputs, settings, whole, tmp_path, commits
):
    out = tmp_path / "run"
    child = start(gpt2_folder, inputs, out, settings)
    wait_for(lambda: n_commits(out) > commits or child.poll() is not None)
    child.kill()
    child.communicate()
    store = residuum.open(out)
    assert store.commit >= commits
    assert not store.complete
    assert residuum.store.verify(out).ok, "before it is resumed, too"
    _ = store["z"].read()
    every = finish(gpt2_folder, inputs, tmp_path / "count", settings)
    rest = finish(gpt2_folder, inputs, out, settings)
    assert 0 < rest < every, "what is committed is not computed again"
    assert_same(out, whole)


def test_killed_again_and_again(gpt2_folder, inputs, settings, whole, tmp_path):
    out = tmp_path / "run"
    dice = random.Random(5)
    for _ in range(4):
        resumed = settings | {"resume": True}
        child = start(gpt2_folder, inputs, out, resumed)
        time.sleep(dice.uniform(0.0, 1.2))
        child.kill()
        child.communicate()
        if out.exists():
            assert residuum.store.verify(out).ok
    finish(gpt2_folder, inputs, out, settings)
    assert_same(out, whole)


def test_interrupt_commits_what_is_complete(gpt2_folder, inputs, settings, whole, tmp_path):
    out = tmp_path / "run"
    child = start(gpt2_folder, inputs, out, settings, pause=0.05)
    wait_for(lambda: n_commits(out) > 2)
    before = residuum.open(out).n_example
    os.kill(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode not in (0, -signal.SIGKILL)
    assert "--resume" in err
    store = residuum.open(out)
    assert before <= store.n_example < 120
    assert not store.complete
    assert residuum.store.verify(out).ok
    finish(gpt2_folder, inputs, out, settings)
    assert_same(out, whole)


@pytest.mark.slow
def test_kill_campaign(gpt2_folder, inputs, settings, whole, tmp_path):
    """Forty kills at random moments, each followed by a check; a few hundred milliseconds apart."""
    dice = random.Random(11)
    for number in range(10):
        out = tmp_path / f"run{number}"
        for _ in range(4):
            child = start(gpt2_folder, inputs, out, settings | {"resume": True}, pause=0.003)
            time.sleep(dice.uniform(0.0, 2.0))
            child.kill()
            child.communicate()
            if out.exists():
                assert residuum.store.verify(out).ok
        finish(gpt2_folder, inputs, out, settings)
        assert_same(out, whole)
