"""The schedule layerwise against forward: the same files, each weight read once, block by block."""

import json
import os
import signal

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from trees import ARRAYS, assert_same

import residuum
from residuum.capture.layerwise import checkpoint as checkpoint_module
from residuum.capture.layerwise.checkpoint import Checkpoint
from residuum.capture.layerwise.stage_pass import StageTracer
from residuum.capture.tracer import Tracer
from residuum.errors import CaptureError, InputError, ModelError
from residuum.sites import Site

SETTINGS = {"batch_tokens": 12, "shard_rows": 32, "chunk_rows": 8, "device": "cpu"}
TEXTS = [" ".join(f"w{(n * 5 + 3 * k) % 28 + 1}" for k in range(n % 6 + 1)) for n in range(25)]
TEXTS[9] = TEXTS[3]
NAMES = [name for name in tiny_models.MODELS if name != "gpt2_bare"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = {}

    def folder(name, dtype=torch.float32):
        if (name, dtype) not in made:
            made[name, dtype] = tmp_path_factory.mktemp("models") / name
            tiny_models.save(name, made[name, dtype], dtype)
        return made[name, dtype]

    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(7):
        pixels = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def read(monkeypatch):
    """Every checkpoint that was opened."""
    opened = []
    init = Checkpoint.__init__

    def noting(self, folder):
        init(self, folder)
        opened.append(self)

    monkeypatch.setattr(Checkpoint, "__init__", noting)
    return opened


def capture(model, out, inputs=TEXTS, **more):
    return residuum.capture(model, inputs, out, **SETTINGS | more)


def sites_of(folder):
    from residuum.capture.model import load_model

    kind = "image" if "vision" in folder.name else "text"
    loaded = load_model(folder, kind=kind, device="cpu")
    return [site.value for site in loaded.adapter.sites(loaded.model)]


def test_weights_lie_in_memory_as_those_of_a_model_loaded_whole(folder):
    """Some BLAS go by that in the last bit; this machine's may not."""
    from residuum.capture.model import load_model

    path = folder("clip_text")
    whole = load_model(path, kind="text", device="cpu").model.state_dict()
    checkpoint = Checkpoint(path)
    lies = {name: checkpoint.read(name).data_ptr() % 64 for name in checkpoint.names}
    assert lies == {name: whole[name].data_ptr() % 64 for name in lies}
    assert len(set(lies.values())) > 1, "or else it shows nothing"


@pytest.mark.parametrize("name", NAMES)
def test_every_site_of_every_family_is_that_of_forward(folder, pictures, tmp_path, read, name):
    model = folder(name)
    inputs = pictures if "vision" in name else TEXTS
    sites = sites_of(model)
    one = capture(model, tmp_path / "forward", inputs, sites=sites)
    assert read == []
    two = capture(model, tmp_path / "layerwise", inputs, sites=sites, schedule="layerwise")
    assert_same(tmp_path / "forward", tmp_path / "layerwise", *ARRAYS)
    assert two.complete
    assert two.verify().ok
    assert not (two.path / "staging").exists()
    assert one.model == two.model, "hash of the weights and configuration included"
    assert two.capture["schedule"] == "layerwise"
    assert {**one.capture, "schedule": "layerwise"} == two.capture
    [checkpoint] = read
    known = {n: checkpoint.n_bytes(n) for n in checkpoint.names}
    assert set(checkpoint.n_read.values()) <= set(known.values())
    for tensor, n_bytes in checkpoint.n_read.items():
        assert n_bytes == known[tensor], f"{tensor} was not read exactly once"
    unread = set(known) - set(checkpoint.n_read)
    assert not [tensor for tensor in unread if needed(tensor, name)], unread


def needed(tensor, name):
    """Whether a tensor of a checkpoint is part of the tower that was captured."""
    if name.startswith("clip_text"):
        return not tensor.startswith(("vision_model.", "visual_projection.", "logit_scale"))
    if name.startswith("clip_vision"):
        return not tensor.startswith(("text_model.", "text_projection.", "logit_scale"))
    return "pooler" not in tensor


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "clip_vision"])
@pytest.mark.parametrize(
    "asked",
    [
        {"sites": ["z"], "layers": [1]},
        {"sites": ["resid_pre", "resid_post"], "layers": [0, 2]},
        {"sites": ["embed"]},
        {"sites": ["resid_final"], "positions": "last"},
        {"sites": ["mlp_post", "embed"], "layers": [0], "dtype": "float16", "codec": "zstd"},
    ],
)
def test_parts_are_those_of_forward_and_later_layers_do_not_run(
    folder, pictures, tmp_path, read, monkeypatch, name, asked
):
    inputs = pictures if name == "clip_vision" else TEXTS
    capture(folder(name), tmp_path / "forward", inputs, **asked)
    run, seen = StageTracer.run, []

    def counting(self, batch, sink):
        seen.append(self.stage.layer)
        run(self, batch, sink)

    monkeypatch.setattr(StageTracer, "run", counting)
    capture(folder(name), tmp_path / "layerwise", inputs, schedule="layerwise", **asked)
    assert_same(tmp_path / "forward", tmp_path / "layerwise", *ARRAYS)
    last = {"embed": None, "resid_final": 2}.get(asked["sites"][0], max(asked.get("layers", [0])))
    stages = [None] if last is None else [None, *range(last + 1)]
    assert sorted(set(seen), key=str) == sorted(stages, key=str)
    assert len(seen) % len(stages) == 0, "every batch takes every stage once"
    # Of blocks that are not run, only what the readout needs is read.
    beyond = [
        t for t in read[0].n_read if any(f".{n}." in f".{t}" for n in range((last or 0) + 1, 3))
    ]
    if last is not None:
        assert all("out" in t or "o_proj" in t or "attn.c_proj" in t for t in beyond), beyond


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_half_precision(folder, tmp_path, name, dtype):
    model = folder(name, dtype)
    sites = ["resid_post", "z", "pattern", "logits"]
    one = capture(model, tmp_path / "forward", sites=sites)
    two = capture(model, tmp_path / "layerwise", sites=sites, schedule="layerwise")
    assert one.capture["dtype"] == two.capture["dtype"] == str(dtype).removeprefix("torch.")
    for site in sites:
        left, right = one[site].read(dtype="float32"), two[site].read(dtype="float32")
        np.testing.assert_allclose(left, right, rtol=2e-2, atol=2e-2)
    # Another dtype to compute in than the checkpoint's.
    wide = {"sites": ["resid_post"], "model_dtype": "float32"}
    capture(model, tmp_path / "wide", **wide)
    capture(model, tmp_path / "wide_by_layer", schedule="layerwise", **wide)
    assert_same(tmp_path / "wide", tmp_path / "wide_by_layer", *ARRAYS)


def split(source, target, n_file):
    """Write a checkpoint again as several files with an index."""
    target.mkdir()
    for file in source.iterdir():
        if file.suffix == ".json":
            (target / file.name).write_bytes(file.read_bytes())
    tensors = load_file(source / "model.safetensors")
    names = sorted(tensors)
    index = {}
    for number in range(n_file):
        part = names[number::n_file]
        file = f"model-{number + 1:05}-of-{n_file:05}.safetensors"
        save_file({name: tensors[name] for name in part}, target / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    (target / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )


def test_several_files_and_other_names(folder, tmp_path, read):
    settings = {"sites": ["resid_post", "logits"]}
    split(folder("gpt2"), tmp_path / "split", 3)
    capture(tmp_path / "split", tmp_path / "forward", **settings)
    capture(tmp_path / "split", tmp_path / "layerwise", schedule="layerwise", **settings)
    assert_same(tmp_path / "forward", tmp_path / "layerwise", *ARRAYS)
    # A checkpoint of the bare body, whose names lack the prefix, and one with old names.
    for name in ("gpt2_bare", "bert"):
        sites = {"sites": ["resid_post"]}
        model = tmp_path / name
        split(folder(name), model, 1)
        file = next(model.glob("*.safetensors"))
        tensors = load_file(file)
        old = {n.replace("LayerNorm.weight", "LayerNorm.gamma"): t for n, t in tensors.items()}
        save_file(old, model / "model.safetensors", {"format": "pt"})
        file.unlink()
        (model / "model.safetensors.index.json").unlink()
        capture(model, tmp_path / f"{name}_forward", **sites)
        capture(model, tmp_path / f"{name}_layerwise", schedule="layerwise", **sites)
        assert_same(tmp_path / f"{name}_forward", tmp_path / f"{name}_layerwise", *ARRAYS)


def test_a_layer_is_in_memory_alone(folder, tmp_path, monkeypatch):
    """What has memory while a stage runs: its own weights, and numbers that stand for others."""
    run, kept = StageTracer.run, {}

    def measuring(self, batch, sink):
        real = [
            weight.source
            for weight in self.shell.weights
            for module, name in weight.places[:1]
            if not (tensor := getattr(module, name)).is_meta
            and tensor.untyped_storage().nbytes() > 8
        ]
        kept.setdefault(self.stage.name, set()).update(real)
        run(self, batch, sink)

    monkeypatch.setattr(StageTracer, "run", measuring)
    capture(folder("llama"), tmp_path / "run", sites=["resid_post", "logits"], schedule="layerwise")
    assert kept["embedding"] == {"model.embed_tokens.weight"}
    for layer in range(3):
        assert kept[f"layer {layer}"]
        assert all(name.startswith(f"model.layers.{layer}.") for name in kept[f"layer {layer}"])
    assert kept["readout"] == {"model.norm.weight", "lm_head.weight"}


def test_the_disk_holds_one_working_layer(folder, tmp_path, monkeypatch):
    run, most = StageTracer.run, []

    def looking(self, batch, sink):
        run(self, batch, sink)
        streams = list((tmp_path / "run/staging/stream").glob("*.bin"))
        most.append(len(streams))
        assert all(int(file.stem) <= self.stage.number for file in streams)

    monkeypatch.setattr(StageTracer, "run", looking)
    capture(folder("llama"), tmp_path / "run", sites=["z"], layers=[2], schedule="layerwise")
    assert max(most) == 1, "what enters the layer; what leaves it is not whole yet"
    assert not (tmp_path / "run/staging").exists()


@pytest.mark.parametrize("name", ["llama", "bert_mlm"])
def test_sites_are_added_layer_by_layer(folder, tmp_path, name):
    model = folder(name)
    whole = {"sites": ["resid_post", "z", "pattern", "embed", "logits"]}
    capture(model, tmp_path / "whole", **whole)
    capture(model, tmp_path / "run", sites=["resid_post"], layers=[0, 2])
    store = capture(model, tmp_path / "run", append=True, schedule="layerwise", **whole)
    assert_same(tmp_path / "run", tmp_path / "whole", *ARRAYS)
    assert [entry["schedule"] for entry in store.resume["grown"]] == ["layerwise"]
    with pytest.raises(CaptureError, match=r"adds sites and layers to .*, not examples"):
        capture(model, tmp_path / "run", ["w1 w2"], append=True, schedule="layerwise")
    store = capture(model, tmp_path / "run", ["w7 w2 w7"], append=True)
    assert store.n_example == len(TEXTS) + 1


@pytest.fixture
def stopped(monkeypatch):
    """Fails, or presses Ctrl-C, in a batch of a stage."""

    def stop(stage, number, how):
        run, passes = StageTracer.run, []

        def stopping(self, batch, sink):
            if self.stage.name == stage:
                passes.append(1)
                if len(passes) == number:
                    if how == "error":
                        raise RuntimeError
                    os.kill(os.getpid(), signal.SIGINT)
            run(self, batch, sink)

        monkeypatch.setattr(StageTracer, "run", stopping)

    return stop


def stages_run(monkeypatch):
    """Names of the stages through which batches go from now on."""
    ran, run = [], StageTracer.run

    def counting(self, batch, sink):
        ran.append(self.stage.name)
        run(self, batch, sink)

    monkeypatch.setattr(StageTracer, "run", counting)
    return ran


@pytest.mark.parametrize("how", ["error", "Ctrl-C"])
@pytest.mark.parametrize("stage", ["layer 1", "layer 2", "readout"])
def test_stopped_and_resumed_ends_in_the_same_arrays(
    folder, tmp_path, monkeypatch, read, stopped, stage, how
):
    settings = {"sites": ["resid_post", "logits"], "layers": [0, 2], "schedule": "layerwise"}
    capture(folder("gpt2"), tmp_path / "whole", **settings)
    with monkeypatch.context():
        stopped(stage, 3, how)
        with pytest.raises((RuntimeError, KeyboardInterrupt)) as raised:
            capture(folder("gpt2"), tmp_path / "run", **settings)
    if how == "Ctrl-C":
        assert "--resume" in str(raised.value)
    store = residuum.open(tmp_path / "run")
    assert not store.complete
    assert store.n_example == len(TEXTS)
    assert store["resid_post"].layers == ((0, 2) if stage == "readout" else (0,))
    assert store.verify().ok
    with pytest.raises(CaptureError, match="was begun with the schedule layerwise"):
        capture(folder("gpt2"), tmp_path / "run", **settings | {"schedule": "forward"}, resume=True)
    with pytest.raises(InputError, match="row 3 is another input"):
        capture(folder("gpt2"), tmp_path / "run", [*TEXTS[:3], "w9", *TEXTS[4:]], resume=True)
    read.clear()
    ran = stages_run(monkeypatch)
    capture(folder("gpt2"), tmp_path / "run", **settings | {"schedule": None}, resume=True)
    after = ["layer 1", "layer 2", "readout"]
    # Ctrl-C in a layer of which nothing is stored ends it at once, as a kill does.
    assert set(ran) == set(after[after.index(stage) :]), "whole layers are kept"
    assert_same(tmp_path / "run", tmp_path / "whole", *ARRAYS)
    assert not (tmp_path / "run/staging").exists()


def test_failing_before_a_layer_is_whole_leaves_nothing(folder, tmp_path, stopped):
    stopped("layer 0", 1, "error")
    with pytest.raises(RuntimeError):
        capture(folder("gpt2"), tmp_path / "run", sites=["z"], schedule="layerwise")
    assert list(tmp_path.iterdir()) == []


def test_a_growth_that_fails_at_once_leaves_the_store_complete(folder, tmp_path, stopped):
    capture(folder("gpt2"), tmp_path / "run", sites=["resid_post"], layers=[1])
    stopped("layer 0", 1, "error")
    more = {"sites": ["z"], "layers": [0], "schedule": "layerwise", "append": True}
    with pytest.raises(RuntimeError):
        capture(folder("gpt2"), tmp_path / "run", **more)
    store = residuum.open(tmp_path / "run")
    assert (store.complete, store.growth, store.sites) == (True, None, ("resid_post",))
    assert not (tmp_path / "run/staging").exists()


def test_failing_in_a_late_layer_keeps_what_enters_it(folder, tmp_path, stopped, monkeypatch):
    settings = {"sites": ["z"], "layers": [2], "schedule": "layerwise"}
    capture(folder("gpt2"), tmp_path / "whole", **settings)
    with monkeypatch.context():
        stopped("layer 1", 2, "error")
        with pytest.raises(RuntimeError) as raised:
            capture(folder("gpt2"), tmp_path / "run", **settings)
    assert any("--resume" in note for note in raised.value.__notes__)
    ran = stages_run(monkeypatch)
    capture(folder("gpt2"), tmp_path / "run", **settings | {"schedule": None}, resume=True)
    assert set(ran) == {"layer 1", "layer 2"}
    assert_same(tmp_path / "run", tmp_path / "whole", *ARRAYS)


def test_what_cannot_be_read_by_layer_is_refused(folder, tmp_path):
    settings = {"sites": ["z"], "schedule": "layerwise"}
    model = tiny_models.build("llama", torch.float32)
    with pytest.raises(ModelError, match="pass the folder or name of its checkpoint"):
        capture((model, tiny_models.tokenizer()), tmp_path / "run", **settings)
    split(folder("llama"), tmp_path / "old", 1)
    torch.save(load_file(folder("llama") / "model.safetensors"), tmp_path / "old/pytorch_model.bin")
    for file in (
        *(tmp_path / "old").glob("*.safetensors"),
        tmp_path / "old/model.safetensors.index.json",
    ):
        file.unlink()
    with pytest.raises(ModelError, match=r"only pytorch_model\.bin: load the model and save it"):
        capture(tmp_path / "old", tmp_path / "run", **settings)
    datasets = pytest.importorskip("datasets")
    stream = datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()
    with pytest.raises(InputError, match="a stream, which can be walked only once"):
        capture(folder("llama"), tmp_path / "run", stream, **settings)
    with pytest.raises(ModelError, match="no dtype 'float31'"):
        capture(folder("llama"), tmp_path / "run", **settings, model_dtype="float31")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


@pytest.mark.parametrize("damage", ["cut", "missing", "shape", "index", "type"])
def test_damaged_checkpoints(folder, tmp_path, damage):
    model = tmp_path / "model"
    split(folder("llama"), model, 1)
    file = next(model.glob("*.safetensors"))
    tensors = load_file(file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
        says = "damaged: its header is wrong"
    elif damage == "missing":
        del tensors["model.layers.1.mlp.up_proj.weight"]
        says = "1 are missing, the first is model.layers.1.mlp.up_proj.weight"
    elif damage == "shape":
        tensors["model.norm.weight"] = torch.ones(3)
        says = r"model.norm.weight is \[3\], not \[42\]"
    elif damage == "type":
        tensors["model.norm.weight"] = torch.ones(42, dtype=torch.int16)
        says = "model.norm.weight is I16"
    else:
        (model / "model.safetensors.index.json").write_text("{}")
        says = "is no index of safetensors files"
    if damage in ("missing", "shape", "type"):
        save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelError, match=says):
        capture(model, tmp_path / "run", sites=["z"], schedule="layerwise")
    assert not (tmp_path / "run").exists()


def test_a_damaged_stream_is_no_result(folder, tmp_path, stopped):
    stopped("layer 1", 2, "error")
    settings = {"sites": ["z"], "schedule": "layerwise"}
    with pytest.raises(RuntimeError):
        capture(folder("llama"), tmp_path / "run", **settings)
    stream = tmp_path / "run/staging/stream/1.bin"
    whole = stream.read_bytes()
    for bytes_there, says in (
        (whole[:-8], "in the middle of a batch"),
        (whole + b"1", "holds more"),
    ):
        stream.write_bytes(bytes_there)
        with pytest.raises(CaptureError, match=says):
            capture(folder("llama"), tmp_path / "run", **settings, resume=True)
        assert residuum.open(tmp_path / "run")["z"].layers == (0,)


def test_a_stage_reads_what_a_pass_reads(folder):
    """`Tracer.part` of nothing is no error: a layer of which nothing is stored runs too."""
    model = tiny_models.build("llama", torch.float32)
    from residuum.capture.adapters import LLAMA

    tracer = Tracer(model, LLAMA, [Site.Z, Site.EMBED], [0, 2])
    assert tracer.part({}).sites == ()
    assert tracer.part({Site.Z: (2,)}).layers == (2,)
    assert tracer.layers == (0, 2)
    assert checkpoint_module.DTYPES["BF16"] is torch.bfloat16
