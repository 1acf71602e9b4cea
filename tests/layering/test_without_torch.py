"""A store is asked where neither torch nor transformers is installed.

The environment is made from the lock file and holds what `pip install residuum` brings; the wheel
is built and installed as it ships, with the compiled module and the DuckDB extension inside.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import residuum

ROOT = Path(__file__).parents[2]
TEXTS = ["the red square sees the green circle", "a dog runs", "one", "two blue stars in on one"]

ASK = """
import importlib.util, json, sys
import residuum

assert importlib.util.find_spec("torch") is None
assert importlib.util.find_spec("transformers") is None
store = residuum.open(sys.argv[1])
try:
    residuum.capture("gpt2", ["text"], sys.argv[1] + ".new", sites=["z"])
except ImportError as error:
    refusal = str(error)
patch = residuum.replay.Patch("resid_post", [1], layers=0)
(found,) = residuum.replay(store).run([patch], tokens=[-1])
try:
    residuum.replay(store, executor="torch")
except ImportError as error:
    no_replay = str(error)
print(json.dumps({
    "shape": list(store["z"].read(layers=1).shape),
    "lengths": store.sql(
        "SELECT layer, count(*), sum(len(vec)) FROM resid_post GROUP BY ALL ORDER BY ALL"
    ).fetchall(),
    "lens": store.sql("SELECT count(*) FROM logit_lens(k := 1)").fetchall()[0][0],
    "loaded": sorted({"torch", "transformers"} & set(sys.modules)),
    "refusal": refusal,
    "logits": list(found["logits"].shape),
    "no_replay": no_replay,
}))
"""


def uv() -> str:
    """The uv that runs the tests, or the one that `make` found or installed."""
    found = os.environ.get("UV") or shutil.which("uv") or shutil.which(str(ROOT / ".tools/bin/uv"))
    assert found, "uv makes the environment of this test: run it by `make test-python`"
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the programs of an environment with the core dependencies alone."""
    environment = tmp_path_factory.mktemp("bare") / "env"
    sync = [uv(), "sync", "--quiet", "--locked", "--no-default-groups", "--no-editable"]
    subprocess.run(
        # uv would take a wheel that it built before the Python files changed.
        [*sync, "--reinstall-package", "residuum"],
        cwd=ROOT,
        env={**os.environ, "UV_PROJECT_ENVIRONMENT": str(environment), "VIRTUAL_ENV": ""},
        check=True,
    )
    return environment / "bin"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, gpt2_folder: Path) -> Path:
    """A store captured here, where torch is."""
    out = tmp_path_factory.mktemp("runs") / "run.residuum"
    residuum.capture(str(gpt2_folder), TEXTS, out, sites=["resid_post", "resid_final", "z"])
    return out


def ask(program: Path, *arguments: str | Path) -> str:
    """What a program prints, run outside the repository."""
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, cwd=program.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_reads_and_queries(bare: Path, run: Path) -> None:
    answers = json.loads(ask(bare / "python", "-c", ASK, run))
    store = residuum.open(run)
    assert answers["shape"] == list(store["z"].read(layers=1).shape)
    assert answers["lengths"] == [[layer, store.n_row, 35 * store.n_row] for layer in range(3)]
    assert answers["lens"] == 3 * store.n_row
    assert answers["loaded"] == []
    assert "residuum[capture]" in answers["refusal"]
    assert answers["logits"][0] == 1
    assert "the torch executor needs torch" in answers["no_replay"]
    assert not run.with_name("run.residuum.new").exists()


def test_command_line_asks_and_analyses(bare: Path, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.residuum"
    shutil.copytree(run, copy)
    program = bare / "residuum"
    rows = json.loads(ask(program, "sql", copy, "SELECT count(*) AS n FROM z", "--format", "json"))
    store = residuum.open(run)
    assert rows == [{"n": store.n_row * 3 * 5}]
    ask(program, "verify", copy)
    ask(program, "run", "logit_lens", copy)
    counted = ask(program, "sql", copy, "SELECT n FROM logit_lens_summary", "--format", "json")
    assert [row["n"] for row in json.loads(counted)] == [store.n_row] * 3
