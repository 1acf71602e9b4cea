"""Bad input: one clear paragraph on stderr, exit code 1, nothing half-written."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import one_paragraph, residuum

TEXTS = ["the red square sees the green circle", "a dog runs", "one", "two stars in the circle"]


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "in put ü"
    folder.mkdir()
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": t, "id": i}) + "\n" for i, t in enumerate(TEXTS)))
    return path


def capture(model, inputs, out, *more, code=0):
    sites = [] if "--site" in more else ["--site", "resid_post", "--site", "z"]
    cut = ["--shard-rows", "8", "--device", "cpu"]
    return residuum("capture", model, inputs, "-o", out, *sites, *cut, *more, code=code)


@pytest.fixture
def run(gpt2_folder, inputs, tmp_path):
    out = tmp_path / "run ü.residuum"
    capture(gpt2_folder, inputs, out)
    return out


def refused(model, inputs, out, *more):
    """The paragraph that a capture fails with, having left nothing."""
    before = sorted(out.parent.rglob("*"))
    said = one_paragraph(capture(model, inputs, out, *more, code=1))
    assert sorted(out.parent.rglob("*")) == before
    return said


def test_model_folder_without_weights(gpt2_folder, inputs, tmp_path):
    shutil.copytree(gpt2_folder, tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    said = refused(tmp_path / "bare", inputs, tmp_path / "run")
    assert str(tmp_path / "bare") in said
    assert "no weights" in said


def test_architecture_without_adapter(gpt2_folder, inputs, tmp_path):
    shutil.copytree(gpt2_folder, tmp_path / "other")
    config = json.loads((tmp_path / "other/config.json").read_text())
    config |= {"architectures": ["OddForCausalLM"], "model_type": "odd"}
    (tmp_path / "other/config.json").write_text(json.dumps(config))
    said = refused(tmp_path / "other", inputs, tmp_path / "run")
    assert "OddForCausalLM" in said
    assert "gpt2" in said.lower(), "names the adapters there are"
    assert "adapters/" in said, "says how to add one"


def test_empty_input(gpt2_folder, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    said = refused(gpt2_folder, tmp_path / "empty.txt", tmp_path / "run")
    assert "empty.txt" in said
    assert "no inputs" in said


def test_missing_text_column(gpt2_folder, inputs, tmp_path):
    said = refused(gpt2_folder, inputs, tmp_path / "run", "--text-column", "nope")
    assert "`nope`" in said
    assert "`text`, `id`" in said


def test_bad_json_line(gpt2_folder, inputs, tmp_path):
    inputs.write_text(inputs.read_text() + '{"text": "cut o')
    assert "line 5 is not JSON" in refused(gpt2_folder, inputs, tmp_path / "run")


def test_prompt_longer_than_the_context(gpt2_folder, inputs, tmp_path):
    with inputs.open("a") as file:
        file.write(json.dumps({"text": "dog " * 33, "id": 4}) + "\n")
    said = refused(gpt2_folder, inputs, tmp_path / "run")
    assert all(word in said for word in ["row 4", "33 tokens", "32", "--truncate", "--window"])
    capture(gpt2_folder, inputs, tmp_path / "cut", "--truncate")
    capture(gpt2_folder, inputs, tmp_path / "windows", "--window", 8, "--stride", 4)


def test_prompt_without_tokens(gpt2_folder, inputs, tmp_path):
    with inputs.open("a") as file:
        file.write('{"text": "", "id": 4}\n')
    assert "row 4 has no tokens" in refused(gpt2_folder, inputs, tmp_path / "run")


def broken_model(gpt2_folder, folder, value):
    import torch
    from transformers import AutoModelForCausalLM

    shutil.copytree(gpt2_folder, folder)
    model = AutoModelForCausalLM.from_pretrained(gpt2_folder)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_proj.bias[3] = value
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("value", "counted"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_nonfinite_activations(gpt2_folder, inputs, tmp_path, value, counted):
    model = broken_model(gpt2_folder, tmp_path / "model", value)
    said = refused(model, inputs, tmp_path / "run")
    assert "resid_post layer 1" in said
    assert counted in said
    assert "--allow-nonfinite" in said
    capture(model, inputs, tmp_path / "run", "--allow-nonfinite")
    query = said.split("`")[1]
    found = json.loads(residuum("sql", tmp_path / "run", query, "--format", "json").out)
    assert {row["example"] for row in found} == set(range(len(TEXTS)))


def test_output_that_is_no_store(gpt2_folder, inputs, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for more in ([], ["--resume"], ["--append"]):
        said = refused(gpt2_folder, inputs, out, *more)
        assert str(out) in said
        assert "not a residuum store" in said
    assert (out / "notes.txt").read_text() == "mine"


def test_output_that_is_a_store(gpt2_folder, inputs, run):
    said = refused(gpt2_folder, inputs, run)
    assert all(word in said for word in [str(run), "--resume", "--append"])


def test_output_of_another_model(gpt2_folder, inputs, run, tmp_path):
    other = broken_model(gpt2_folder, tmp_path / "other", 1.0)
    for more in ("--resume", "--append"):
        assert "weights_hash" in refused(other, inputs, run, more)


def test_output_of_another_family_names_a_few_differences(inputs, run, tmp_path):
    import tiny_models

    tiny_models.save("llama", tmp_path / "llama")
    said = refused(tmp_path / "llama", inputs, run, "--append")
    assert "architecture is GPT2LMHeadModel there, LlamaForCausalLM here" in said
    assert re.search(r"and \d\d more", said)
    assert len(said) < 500 + len(str(run))


def test_resume_of_nothing_says_that_it_starts(gpt2_folder, inputs, tmp_path):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "none", tmp_path / "empty"):
        said = capture(gpt2_folder, inputs, out, "--resume").err
        assert f"{out}: nothing to resume yet, a new capture." in said
        assert "nothing to resume" not in capture(gpt2_folder, inputs, out, "--resume").err


def test_a_model_run_in_64_bit_is_stored_in_32(gpt2_folder, inputs, tmp_path):
    said = refused(gpt2_folder, inputs, tmp_path / "run", "--model-dtype", "float64")
    assert "--dtype float32" in said
    more = ["--model-dtype", "float64", "--dtype", "float32"]
    capture(gpt2_folder, inputs, tmp_path / "run", *more)
    info = json.loads(residuum("info", tmp_path / "run", "--json").out)
    assert (info["model"]["dtype"], info["sites"]["z"]["dtype"]) == ("float64", "float32")


def test_unknown_site(gpt2_folder, inputs, tmp_path):
    said = refused(gpt2_folder, inputs, tmp_path / "run", "--site", "resid_postt")
    assert all(word in said for word in ["resid_postt", "resid_post,", "mlp_out"])


def test_site_that_the_model_lacks(gpt2_folder, inputs, tmp_path):
    assert "rot_q" in refused(gpt2_folder, inputs, tmp_path / "run", "--site", "rot_q")


def test_layer_that_the_model_lacks(gpt2_folder, inputs, tmp_path):
    assert "0 to 2" in refused(gpt2_folder, inputs, tmp_path / "run", "--layers", "1:5")


@pytest.mark.parametrize("command", ["info", "verify", "sql"])
def test_store_of_a_newer_format(run, command):
    for file in [run / "zarr.json", *(run / "commits").iterdir()]:
        document = json.loads(file.read_text())
        holder = document["attributes"]["residuum"] if file.name == "zarr.json" else document
        holder["format"] = 99
        file.write_text(json.dumps(document))
    query = ["SELECT 1"] if command == "sql" else []
    said = one_paragraph(residuum(command, run, *query, code=1))
    assert "99" in said


@pytest.mark.parametrize("command", ["info", "verify", "sql"])
def test_no_store(tmp_path, command):
    query = ["SELECT 1"] if command == "sql" else []
    assert "none" in one_paragraph(residuum(command, tmp_path / "none", *query, code=1))


def shard(run, site="resid_post"):
    files = [f for f in (run / "activations" / site).rglob("*") if f.is_file()]
    return max((f for f in files if f.name != "zarr.json"), key=lambda f: f.stat().st_size)


def test_truncated_shard(run):
    file = shard(run)
    os.truncate(file, file.stat().st_size // 2)
    done = residuum("verify", run, code=1)
    assert "activations/resid_post" in done.out + done.err
    done = residuum("sql", run, "SELECT sum(vec[1]) FROM resid_post", code=1)
    assert len(done.err.strip().splitlines()) == 1
    assert str(file) in done.err


def test_missing_shard(run):
    shard(run).unlink()
    done = residuum("verify", run, code=1)
    assert "activations/resid_post" in done.out + done.err


@pytest.mark.parametrize("where", [0.1, 0.5, 0.99])
def test_flipped_byte(run, where):
    file = shard(run)
    data = bytearray(file.read_bytes())
    data[int(len(data) * where)] ^= 0x40
    file.write_bytes(data)
    report = json.loads(residuum("verify", run, "--json", code=1).out)
    assert any("resid_post" in problem["file"] for problem in report["problems"])


def test_a_damaged_lens_is_named_with_its_remedy(run):
    file = run / "lenses" / "tuned.safetensors"
    residuum("run", "tuned_lens", run, "--set", "steps=1", "--set", "experiments=quality")
    assert "no problem" in residuum("verify", run).out
    assert "tuned lens: tuned" in residuum("info", run).out
    os.truncate(file, file.stat().st_size // 2)
    assert residuum("info", run).out
    problem = residuum("verify", run, code=1).err.splitlines()[1]
    assert problem.startswith("lenses/tuned.safetensors: it is damaged: ")
    assert problem.endswith("remove the file, and train the lens again or save it again")
    said = one_paragraph(residuum("export", run, "-o", run / "x", "--format", "store", code=1))
    assert f"{file} is damaged" in said


HOSTILE = {
    "shape": [16, 3, 2**40],
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2**40, 1, 35]}},
    "codecs": [],
    "data_type": "complex128",
    "dimension_names": ["row"],
}


@pytest.mark.parametrize("key", HOSTILE)
def test_hostile_array_metadata(run, key):
    file = run / "activations/resid_post/zarr.json"
    document = json.loads(file.read_text())
    document[key] = HOSTILE[key]
    file.write_text(json.dumps(document))
    done = residuum("verify", run, code=1)
    assert "resid_post" in done.out + done.err
    assert "Traceback" not in done.err


def test_a_shape_beyond_the_commit_gives_no_more_rows(run):
    """As after a crash between the two; readers go by the commit."""
    file = run / "activations/resid_post/zarr.json"
    document = json.loads(file.read_text())
    n_row = document["shape"][0]
    document["shape"][0] = 2**62
    file.write_text(json.dumps(document))
    query = "SELECT count(*) AS n, sum(vec[1]) AS s FROM resid_post WHERE layer = 0"
    [row] = json.loads(residuum("sql", run, query, "--format", "json").out)
    assert row["n"] == n_row


@pytest.mark.parametrize("text", ["", "[]", '{"attributes": {"residuum": 3}}', "{" * 10_000])
def test_hostile_root(run, text):
    (run / "zarr.json").write_text(text)
    assert "zarr.json" in one_paragraph(residuum("info", run, code=1)) or "not a residuum store"


@pytest.mark.parametrize(
    "change",
    [{"rows": {"token": 2**60, "example": 0}}, {"n_example": -1}, {"arrays": {}}, {"resume": 0}],
)
def test_hostile_commit(run, change):
    file = max((run / "commits").iterdir())
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    done = residuum("verify", run, code=None)
    assert "Traceback" not in done.err
    assert done.code in (0, 1)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT * FROM nowhere", "nowhere"),
        ("SELECT layr FROM resid_post", "layr"),
        ("SELECT 1/'a'", "a"),
    ],
)
def test_sql_errors_are_duckdbs_own(run, query, says):
    done = residuum("sql", run, query, code=1)
    assert "Error" in done.err.splitlines()[0]
    assert says in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["capture"],
        ["capture", "model", "in.txt", "-o", "x"],
        ["capture", "model", "in.txt", "-o", "x", "--site", "z", "--schedule", "sideways"],
        ["capture", "model", "in.txt", "-o", "x", "--site", "z", "--dtype", "int4"],
        ["nothing"],
        ["sql", "run", "SELECT 1", "--format", "xml"],
        ["run", "logit_lens", "run", "--set", "k"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments):
    done = residuum(*arguments, code=2)
    assert "Usage:" in done.err
    assert done.out == ""


def test_debug_shows_the_traceback(tmp_path):
    command = [sys.executable, "-m", "residuum.cli", "info", str(tmp_path), "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def full_disk(folder: Path, megabytes: int) -> Path:
    """A file system that is nearly full, mounted on `folder`."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system needs the right to mount one")
    return folder


@pytest.fixture
def small_disk(tmp_path):
    folder = full_disk(tmp_path / "small", 2)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def many(tmp_path):
    rng = np.random.default_rng(0)
    words = ["the", "a", "red", "blue", "square", "circle", "star", "dog", "cat", "runs", "sees"]
    path = tmp_path / "many.txt"
    path.write_text("\n".join(" ".join(rng.choice(words, 20)) for _ in range(400)))
    return path


def test_full_disk_leaves_the_last_commit(gpt2_folder, many, small_disk):
    out = small_disk / "run"
    cut = ["--shard-rows", 64, "--batch-tokens", 64, "--site", "resid_post", "--site", "mlp_out"]
    said = one_paragraph(capture(gpt2_folder, many, out, *cut, code=1))
    assert f"file system of {out} is full: free some space" in said
    assert "--resume" in said
    assert json.loads(residuum("verify", out, "--json").out)["ok"]
    info = json.loads(residuum("info", out, "--json").out)
    assert 0 < info["n_example"] < 400
    assert not info["complete"]
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    capture(gpt2_folder, many, out, *cut, "--resume")
    assert json.loads(residuum("info", out, "--json").out)["n_example"] == 400


def test_full_disk_before_the_first_commit_leaves_nothing(gpt2_folder, many, small_disk):
    out = small_disk / "run"
    sites = ["--site", "resid_post", "--site", "mlp_out", "--shard-rows", 8192]
    said = one_paragraph(capture(gpt2_folder, many, out, *sites, code=1))
    assert f"file system of {out} is full" in said
    assert list(small_disk.iterdir()) == []


def test_path_with_spaces_and_unicode(run):
    """`run` and its inputs are at such a path."""
    assert json.loads(residuum("verify", run, "--json").out)["ok"]
    rows = json.loads(
        residuum("sql", run, "SELECT count(*) AS n FROM examples", "--format", "json").out
    )
    assert rows == [{"n": len(TEXTS)}]


def test_interrupt_says_how_to_go_on(gpt2_folder, inputs, tmp_path, monkeypatch):
    from residuum.capture.tracer import Tracer

    run = Tracer.run

    def interrupting(self, batch, sink):
        os.kill(os.getpid(), signal.SIGINT)
        run(self, batch, sink)

    monkeypatch.setattr(Tracer, "run", interrupting)
    said = one_paragraph(capture(gpt2_folder, inputs, tmp_path / "run", code=1))
    assert "Interrupted" in said
    assert "--resume" in said
    monkeypatch.undo()
    capture(gpt2_folder, inputs, tmp_path / "run", "--resume")
