"""Sites and layers added to a store later: what runs, what is seen, what is refused."""

import os
import signal

import numpy as np
import pyarrow as pa
import pytest
import tiny_models
from trees import ARRAYS, files

import residuum
from residuum.capture.tracer import Tracer
from residuum.errors import CaptureError, InputError

TEXTS = [" ".join(f"w{(n * 5 + 3 * k) % 28 + 1}" for k in range(n % 6 + 1)) for n in range(40)]
TEXTS[9] = TEXTS[3]
SETTINGS = {"batch_tokens": 12, "shard_rows": 32, "chunk_rows": 8, "device": "cpu"}
FEW = {"sites": ["resid_post"], "layers": [0, 2]}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_models.save("llama", folder)
    return folder


@pytest.fixture
def blocks(monkeypatch):
    """The last block that each forward pass reached."""
    run, passes = Tracer.run, []

    def counting(self, batch, sink):
        reached = []
        hooks = [
            block.register_forward_pre_hook(lambda _m, _a, n=n: reached.append(n))
            for n, block in enumerate(self.adapter.block_list(self.model))
        ]
        try:
            run(self, batch, sink)
        finally:
            for hook in hooks:
                hook.remove()
            passes.append(max(reached))

    monkeypatch.setattr(Tracer, "run", counting)
    return passes


def capture(model, out, texts=TEXTS, **more):
    return residuum.capture(model, texts, out, **SETTINGS | more)


def test_what_is_added_is_what_a_capture_of_all_gives(model, tmp_path, blocks):
    whole = {"sites": ["resid_post", "z", "pattern", "resid_final", "norm_scale"], "layers": [0, 2]}
    capture(model, tmp_path / "whole", **whole)
    n_batch = len(blocks)
    capture(model, tmp_path / "run", **FEW)
    old = residuum.open(tmp_path / "run")
    kept = old["resid_post"].read()
    blocks.clear()
    new = capture(model, tmp_path / "run", append=True, **whole)
    assert len(blocks) == n_batch, "one pass for each batch"
    assert files(tmp_path / "run", *ARRAYS) == files(tmp_path / "whole", *ARRAYS)
    assert new.complete
    assert new.growth is None
    assert new.n_example == old.n_example == len(TEXTS)
    assert old.sites == ("resid_post",), "who has the old commit open goes on with it"
    np.testing.assert_array_equal(old["resid_post"].read(), kept)
    assert new.verify().ok
    assert not (tmp_path / "run/staging").exists()


def test_rows_that_fill_their_shards_end_no_growth_before_its_end(model, tmp_path):
    texts = [*TEXTS[10:30], f"{TEXTS[30]} w3"]
    whole = capture(model, tmp_path / "whole", texts, sites=["resid_post", "z"])
    assert whole.n_row % SETTINGS["shard_rows"] == 0, "else this tests nothing"
    capture(model, tmp_path / "run", texts, sites=["resid_post"])
    store = capture(model, tmp_path / "run", texts, sites=["z"], append=True)
    assert store.complete
    assert files(tmp_path / "run", *ARRAYS) == files(tmp_path / "whole", *ARRAYS)


def test_a_pass_ends_at_the_last_layer_that_is_missing(model, tmp_path, blocks):
    capture(model, tmp_path / "run", sites=["resid_post"], layers=[2])
    assert set(blocks) == {2}
    blocks.clear()
    store = capture(model, tmp_path / "run", sites=["z"], layers=[0], append=True)
    assert set(blocks) == {0}
    blocks.clear()
    store = capture(model, tmp_path / "run", sites=["z"], layers="0:2", append=True)
    assert set(blocks) == {1}
    assert store["z"].layers == (0, 1)
    assert store["resid_post"].layers == (2,)
    blocks.clear()
    n_commit = store.commit
    store = capture(model, tmp_path / "run", sites=["z"], layers=[1], append=True)
    assert (blocks, store.commit) == ([], n_commit), "what is there runs no second time"
    assert [entry["arrays"] for entry in store.resume["grown"]] == [{"z": [0]}, {"z": [1]}]
    capture(model, tmp_path / "whole", sites=["z"], layers=[0, 1])
    whole = residuum.open(tmp_path / "whole")
    np.testing.assert_array_equal(store["z"].read(layers=[0, 1]), whole["z"].read(layers=[0, 1]))


def test_layers_alone_are_those_of_the_sites_that_are_there(model, tmp_path, blocks):
    capture(model, tmp_path / "run", sites=["resid_post", "z", "embed"], layers=[0])
    blocks.clear()
    store = capture(model, tmp_path / "run", layers=[2], append=True)
    assert set(blocks) == {2}
    assert store.n_example == len(TEXTS)
    assert store["resid_post"].layers == store["z"].layers == (0, 2)
    with pytest.raises(InputError, match="these inputs must be its own"):
        capture(model, tmp_path / "run", TEXTS[:5], layers=[1], append=True)


def test_new_layers_are_cut_as_those_that_are_there(model, tmp_path):
    capture(model, tmp_path / "run", **FEW)
    more = SETTINGS | {"chunk_rows": None, "shard_rows": None, "batch_tokens": None}
    store = residuum.capture(
        model, TEXTS, tmp_path / "run", sites=["resid_post"], layers=[1], append=True, **more
    )
    assert store["resid_post"].layers == (0, 1, 2)
    assert store["resid_post"].chunk_rows == SETTINGS["chunk_rows"]
    with pytest.raises(InputError, match="chunk_rows"):
        capture(model, tmp_path / "run", chunk_rows=0, append=True)


def test_new_examples_get_all_that_the_others_have(model, tmp_path, blocks):
    capture(model, tmp_path / "run", TEXTS[:30], **FEW)
    capture(model, tmp_path / "run", TEXTS[:30], sites=["z"], layers=[1], append=True)
    blocks.clear()
    store = capture(model, tmp_path / "run", TEXTS[30:], append=True)
    assert set(blocks) == {2}
    assert store.n_example == len(TEXTS)
    assert store["z"].shape[0] == store["resid_post"].shape[0] == store.n_row
    assert store.verify().ok
    # Another growth then needs the inputs of both, in their order.
    with pytest.raises(InputError, match="these inputs must be its own, in their order"):
        capture(model, tmp_path / "run", TEXTS[30:], sites=["v"], append=True)
    store = capture(model, tmp_path / "run", TEXTS, sites=["v"], append=True)
    whole = capture(model, tmp_path / "whole", TEXTS, sites=["v", "resid_post"])
    np.testing.assert_allclose(store["v"].read(), whole["v"].read(), rtol=1e-4, atol=1e-5)
    rows = [
        residuum.open(tmp_path / name).tokens.to_table().column("row") for name in ("run", "whole")
    ]
    assert rows[0].equals(rows[1])


@pytest.mark.parametrize("name", ["bert", "clip_text"])
def test_rows_of_examples_grow_too(tmp_path, name):
    tiny_models.save(name, tmp_path / "model")
    capture(tmp_path / "model", tmp_path / "run", sites=["pooled", "resid_final"])
    store = capture(tmp_path / "model", tmp_path / "run", sites=["z"], append=True)
    whole = capture(tmp_path / "model", tmp_path / "whole", sites=["pooled", "resid_final", "z"])
    assert files(store.path, *ARRAYS) == files(whole.path, *ARRAYS)
    other = capture(tmp_path / "model", tmp_path / "two", sites=["resid_final", "z"])
    assert other.complete
    with pytest.raises(InputError, match=r"has no rows for `pooled`.*one for each token"):
        capture(tmp_path / "model", tmp_path / "two", sites=["pooled"], append=True)


@pytest.mark.parametrize("positions", ["last", "column:marks"])
def test_positions_are_those_of_the_store(model, tmp_path, positions):
    def table(marks):
        return pa.table({"text": TEXTS, "marks": [marks(len(text.split())) for text in TEXTS]})

    some = table(lambda n: [0, n - 1])
    capture(model, tmp_path / "run", some, positions=positions, **FEW)
    if positions != "last":
        with pytest.raises(InputError, match="keeps other tokens"):
            capture(
                model,
                tmp_path / "run",
                table(lambda n: [n - 1]),
                positions=positions,
                sites=["pattern"],
                append=True,
            )
    settings = {"sites": ["pattern"], "positions": positions}
    store = capture(model, tmp_path / "run", some, append=True, **settings)
    whole = capture(model, tmp_path / "whole", some, **settings)
    np.testing.assert_array_equal(store["pattern"].read(), whole["pattern"].read())


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"texts": TEXTS[:-1]}, InputError, "they make 39 examples"),
        ({"texts": [*TEXTS, "w1 w2"]}, InputError, "they make 41 examples"),
        ({"texts": [*TEXTS[:5], "w1", *TEXTS[6:]]}, InputError, "row 5 is another input"),
        ({"dtype": "float16"}, CaptureError, "dtype is float32 there, float16 here"),
        ({"positions": "last"}, CaptureError, "positions is all there, last here"),
        ({"texts": ["w1"], "sites": ["resid_post"], "layers": [0]}, CaptureError, "holds more"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    model, tmp_path, change, error, says
):
    capture(model, tmp_path / "run", **FEW)
    before = files(tmp_path / "run")
    with pytest.raises(error, match=says):
        capture(model, tmp_path / "run", **{"sites": ["z"], "append": True} | change)
    assert files(tmp_path / "run") == before


def test_a_stream_is_refused(model, tmp_path):
    datasets = pytest.importorskip("datasets")
    capture(model, tmp_path / "run", **FEW)
    stream = datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()
    with pytest.raises(InputError, match="a stream, which cannot be compared"):
        capture(model, tmp_path / "run", stream, sites=["z"], append=True)


def test_another_model_is_refused(model, tmp_path):
    tiny_models.save("mistral", tmp_path / "other")
    capture(model, tmp_path / "run", **FEW)
    with pytest.raises(CaptureError, match="the model's architecture"):
        capture(tmp_path / "other", tmp_path / "run", sites=["z"], append=True)


@pytest.fixture
def stopped(monkeypatch):
    """Presses Ctrl-C, or fails, in the forward pass of that number."""

    def stop(number, how):
        run, passes = Tracer.run, []

        def stopping(self, batch, sink):
            passes.append(1)
            if len(passes) == number:
                if how == "error":
                    raise RuntimeError
                os.kill(os.getpid(), signal.SIGINT)
            run(self, batch, sink)

        monkeypatch.setattr(Tracer, "run", stopping)

    return stop


@pytest.mark.parametrize("how", ["Ctrl-C", "error"])
def test_stopped_and_resumed_ends_in_the_same_files(model, tmp_path, stopped, monkeypatch, how):
    more = {"sites": ["z", "pattern"], "layers": [1]}
    capture(model, tmp_path / "whole", **FEW)
    capture(model, tmp_path / "whole", append=True, **more)
    capture(model, tmp_path / "run", **FEW)
    with monkeypatch.context():
        stopped(15, how)
        with pytest.raises((KeyboardInterrupt, RuntimeError)) as raised:
            capture(model, tmp_path / "run", append=True, **more)
    store = residuum.open(tmp_path / "run")
    assert store.sites == ("resid_post",)
    assert store.n_example == len(TEXTS)
    assert not store.complete
    assert store.growth["n_example"] > 0
    assert store.verify().ok
    if how == "Ctrl-C":
        assert "has the new sites of" in str(raised.value)
    with pytest.raises(CaptureError, match="is not finished"):
        capture(model, tmp_path / "run", append=True, **FEW)
    with pytest.raises(CaptureError, match="holds another capture: sites is"):
        capture(model, tmp_path / "run", resume=True, sites=["v"])
    with pytest.raises(InputError, match="another input"):
        capture(model, tmp_path / "run", ["w2", *TEXTS[1:]], resume=True)
    counted = []
    run = Tracer.run

    def counting(self, batch, sink):
        counted.append(1)
        run(self, batch, sink)

    monkeypatch.setattr(Tracer, "run", counting)
    capture(model, tmp_path / "run", resume=True, **more)
    rest = len(counted)
    assert files(tmp_path / "run") == files(tmp_path / "whole")
    capture(model, tmp_path / "again", **more)
    assert 0 < rest < len(counted) - rest, "finished shards are not computed again"
    # A finished one is left as it is, however it was asked for.
    counted.clear()
    for asked in (more, FEW, {}):
        capture(model, tmp_path / "run", resume=True, **asked)
    assert counted == []


def test_a_growth_that_fails_at_once_leaves_the_store_as_it_was(model, tmp_path, stopped):
    capture(model, tmp_path / "run", **FEW)
    before = files(tmp_path / "run", *ARRAYS)
    stopped(1, "error")
    with pytest.raises(RuntimeError):
        capture(model, tmp_path / "run", sites=["z"], append=True)
    store = residuum.open(tmp_path / "run")
    assert store.complete
    assert store.resume["grown"] == []
    assert files(tmp_path / "run", *ARRAYS) == before
    assert capture(model, tmp_path / "run", sites=["z"], append=True)["z"].layers == (0, 1, 2)


def test_results_are_those_of_the_commit_that_was_asked(model, tmp_path):
    store = capture(model, tmp_path / "run", **FEW)
    store.sql("SELECT count(*) FROM resid_post").fetchall()
    new = capture(model, tmp_path / "run", sites=["z"], append=True)
    assert new.commit > store.commit
    assert not store.is_current
    assert new.statistics("z", 1).mean.shape == (6, 10)
    [(n,)] = new.sql("SELECT count(*) FROM z WHERE layer = 1").fetchall()
    assert n == new.n_row * 6
