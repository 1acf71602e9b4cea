"""`residuum.capture`, end to end: what is in the store is what the model does, however it got "
"there."""

import json
import os
import signal

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
import tiny_models
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trees import files

import residuum
from residuum.capture import commit_points
from residuum.capture.tracer import Tracer
from residuum.errors import CaptureError, InputError, SiteError, StoreError

TEXTS = [
    "the red square sees the green circle",
    "a dog runs",
    "one",
    "a dog runs",
    "the cat and the dog sees one star or two stars in the blue circle",
    "two stars",
]
UNIQUE = list(dict.fromkeys(TEXTS))
SITES = ["resid_pre", "resid_post", "z", "pattern", "resid_final", "logits"]


@pytest.fixture
def passes(monkeypatch):
    """Counts forward passes."""
    run, counted = Tracer.run, []

    def counting(self, batch, sink):
        counted.append(batch.lengths)
        run(self, batch, sink)

    monkeypatch.setattr(Tracer, "run", counting)
    return counted


@pytest.fixture(scope="module")
def alone(gpt2_folder):
    """resid_post `[token, layer, d_model]` and logits of each text by itself, by hooks."""
    model = AutoModelForCausalLM.from_pretrained(gpt2_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    out = {}
    for text in UNIQUE:
        seen = []
        hooks = [
            block.register_forward_hook(lambda _m, _a, o, seen=seen: seen.append(o))
            for block in model.transformer.h
        ]
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0].numpy()
        for hook in hooks:
            hook.remove()
        layers = [(o[0] if isinstance(o, tuple) else o).reshape(len(logits), -1) for o in seen]
        out[text] = torch.stack(layers, 1).numpy(), logits
    return out


def capture(folder, inputs, out, **settings):
    usual = {"sites": SITES, "batch_tokens": 24, "shard_rows": 8, "device": "cpu"}
    return residuum.capture(folder, inputs, out, **usual | settings)


def arrays(path):
    """Bytes of every file that does not say where the model or the inputs came from."""
    return files(path, "activations", "statistics", "index")


def rows_of(store, example):
    table = store.tokens.to_table().filter(pa.compute.field("example") == example)
    return table.sort_by("token").column("row").to_pylist()


def test_values_are_the_models_own(gpt2_folder, tmp_path, alone):
    store = capture(gpt2_folder, TEXTS, tmp_path / "run")
    assert store.complete
    assert store.n_example == len(TEXTS)
    assert store.n_row == sum(len(text.split()) for text in UNIQUE)
    for example, text in enumerate(TEXTS):
        rows = rows_of(store, example)
        resid_post, logits = alone[text]
        np.testing.assert_allclose(store["resid_post"].read(rows), resid_post, atol=1e-5)
        np.testing.assert_allclose(store["logits"].read(rows), logits, atol=1e-5)
        pattern = store["pattern"].read(rows)
        np.testing.assert_allclose(pattern.sum(-1), 1, atol=1e-5)
        assert not np.triu(pattern[:, 0, 0], 1).any()


def test_a_repeat_is_stored_once_and_named_twice(gpt2_folder, tmp_path):
    store = capture(gpt2_folder, TEXTS, tmp_path / "run")
    assert rows_of(store, 1) == rows_of(store, 3)
    hashes = store.examples.to_table().column("content_hash").to_pylist()
    assert hashes[1] == hashes[3]
    assert len(set(hashes)) == len(UNIQUE)


def test_target_is_the_next_token_also_where_it_is_not_stored(gpt2_folder, tmp_path):
    store = capture(gpt2_folder, TEXTS, tmp_path / "run", positions="first")
    tokens = store.tokens.to_table().sort_by([("example", "ascending"), ("token", "ascending")])
    second = {
        (e, t): i
        for e, t, i in zip(
            *(tokens.column(c).to_pylist() for c in ("example", "token", "token_id")), strict=True
        )
    }
    target = store.target.read()
    for example in (0, 1, 2, 4, 5):
        [row] = [r for r in rows_of(store, example) if r is not None]
        assert target[row] == second.get((example, 1), -1)


def test_one_layer_and_last_position(gpt2_folder, tmp_path, alone):
    store = capture(
        gpt2_folder, TEXTS, tmp_path / "run", sites=["resid_post"], layers="1", positions="last"
    )
    assert store.n_row == len(UNIQUE)
    want = np.stack([alone[text][0][-1, 1] for text in UNIQUE])
    np.testing.assert_allclose(store["resid_post"].read(layers=1), want, atol=1e-5)
    with pytest.raises(SiteError, match="1"):
        store["resid_post"].read(layers=2)


def test_marked_positions(gpt2_folder, tmp_path, alone):
    marks = [[0, 3], [True, False, True], [], [1], [5], None]
    lists = [m if m is None or not isinstance(m[:1] and m[0], bool) else [0, 2] for m in marks]
    table = pa.table({"text": TEXTS, "keep": lists})
    store = capture(gpt2_folder, table, tmp_path / "run", positions="column:keep")
    assert [r for r in rows_of(store, 1) if r is not None] == [2, 3]
    assert [r for r in rows_of(store, 3) if r is not None] == [4], "other marks, captured again"
    assert store.n_row == 6
    want = alone[TEXTS[0]][0][[0, 3]]
    np.testing.assert_allclose(store["resid_post"].read([0, 1]), want, atol=1e-5)


def test_stored_keys_are_the_columns_of_the_stored_tokens(gpt2_folder, tmp_path):
    marks = [[0, 3], [0, 2], [], [1], [2], [0]]
    table = pa.table({"text": TEXTS, "keep": marks})
    settings = {"sites": ["pattern", "attn_scores"], "positions": "column:keep"}
    whole = capture(gpt2_folder, table, tmp_path / "whole", **settings)
    store = capture(gpt2_folder, table, tmp_path / "run", keys="stored", **settings)
    assert store["pattern"].shape[-1] == 2
    for site in settings["sites"]:
        got, want = store[site].read(), whole[site].read()
        assert len(got) > 2
        for number, kept in enumerate(marks):
            rows = [row for row in rows_of(store, number) if row is not None]
            np.testing.assert_array_equal(got[rows][..., : len(kept)], want[rows][..., kept])
            assert not got[rows][..., len(kept) :].any()
    with pytest.raises(SiteError, match="keeps no statistics"):
        store.statistics("pattern", 0)
    with pytest.raises(SiteError, match="--keys all"):
        residuum.analyses.run("attention_roles", store)
    with pytest.raises(CaptureError, match="keys"):
        capture(gpt2_folder, table, tmp_path / "run", append=True, **settings)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_the_rounded_value(gpt2_folder, tmp_path, dtype):
    wide = capture(gpt2_folder, TEXTS, tmp_path / "wide", sites=["z"])["z"].read()
    store = capture(gpt2_folder, TEXTS, tmp_path / "half", sites=["z"], dtype=dtype)
    want = torch.from_numpy(wide).to(getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(store["z"].read().astype(np.float32), want)


def test_windows_say_where_they_come_from(gpt2_folder, tmp_path):
    long = " ".join(["the dog sees a cat and"] * 9)
    store = capture(gpt2_folder, [TEXTS[0], long], tmp_path / "run", window=10, stride=6)
    table = store.examples.to_table().sort_by("example")
    assert table.column("source_row").to_pylist() == [0] + [1] * 9
    assert table.column("token_offset").to_pylist() == [0, *range(0, 54, 6)][:10]
    assert table.column("n_token").to_pylist()[-1] == 6
    assert table.column("text").to_pylist()[3] == long


def test_stream_and_table_give_the_same_store(gpt2_folder, tmp_path):
    def rows():
        yield from ({"text": text, "n": i} for i, text in enumerate(TEXTS))

    stream = datasets.IterableDataset.from_generator(rows)
    table = pa.table({"text": TEXTS, "n": range(len(TEXTS))})
    one = capture(gpt2_folder, stream, tmp_path / "stream", sites=["z", "pattern"])
    two = capture(gpt2_folder, table, tmp_path / "table", sites=["z", "pattern"])
    np.testing.assert_array_equal(one["z"].read(), two["z"].read())
    assert one["pattern"].shape[-1] == 32, "a stream may hold anything up to the context"
    assert one.examples.to_table().equals(two.examples.to_table())


def test_loaded_model_and_folder_give_the_same(gpt2_folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(gpt2_folder)
    tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    capture(gpt2_folder, TEXTS, tmp_path / "folder")
    capture((model, tokenizer), TEXTS, tmp_path / "loaded")
    assert arrays(tmp_path / "folder") == arrays(tmp_path / "loaded")


def test_images_through_clip(tmp_path):
    tiny_models.save("clip_vision", tmp_path / "model")
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in [2, 0, 1, 1]:
        pixels = np.random.default_rng(i).integers(0, 255, (12, 12, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / "images" / f"{rng.integers(10**6)}.png")
    store = capture(
        tmp_path / "model", tmp_path / "images", tmp_path / "run", sites=["resid_post", "pooled"]
    )
    assert store.n_example == 4
    assert store["resid_post"].shape[0] == 3 * 10, "nine patches and the class token; a repeat"
    assert store["pooled"].shape == (3, 11)
    table = store.examples.to_table().sort_by("example")
    assert table.column("path").to_pylist() == sorted(table.column("path").to_pylist())
    assert len(set(table.column("example_row").to_pylist())) == 3


def test_pooled_alone_has_example_rows_only(tmp_path):
    tiny_models.save("bert", tmp_path / "model")
    texts = ["w3 w1", "w4", "w3 w1"]
    store = capture(tmp_path / "model", texts, tmp_path / "run", sites=["pooled"])
    assert store["pooled"].shape == (2, 35)
    table = store.examples.to_table().sort_by("example")
    assert table.column("example_row").to_pylist() == [0, 1, 0]
    assert table.column("first_row").null_count == 3
    more = capture(
        tmp_path / "model", ["w4", "w5"], tmp_path / "run", sites=["pooled"], append=True
    )
    assert more["pooled"].shape == (3, 35)
    assert more.examples.to_table().column("example_row").to_pylist() == [0, 1, 0, 1, 2]


def test_resume_of_a_finished_store_runs_nothing(gpt2_folder, tmp_path, passes):
    capture(gpt2_folder, TEXTS, tmp_path / "run")
    before, commits = files(tmp_path / "run"), sorted((tmp_path / "run/commits").iterdir())
    passes.clear()
    capture(gpt2_folder, TEXTS, tmp_path / "run", resume=True)
    assert passes == []
    assert files(tmp_path / "run") == before
    assert sorted((tmp_path / "run/commits").iterdir()) == commits


def test_append_adds_and_repeats_cost_nothing(gpt2_folder, tmp_path, passes, alone):
    capture(gpt2_folder, TEXTS[:3], tmp_path / "run", sites=["resid_post"])
    passes.clear()
    store = capture(gpt2_folder, TEXTS[1:3], tmp_path / "run", sites=["resid_post"], append=True)
    assert passes == []
    assert store.n_example == 5
    store = capture(gpt2_folder, TEXTS[3:], tmp_path / "run", sites=["resid_post"], append=True)
    assert store.n_example == 8
    assert store.n_row == sum(len(text.split()) for text in UNIQUE)
    texts = store.examples.to_table().sort_by("example").column("text").to_pylist()
    assert texts == TEXTS[:3] + TEXTS[1:3] + TEXTS[3:]
    for example, text in enumerate(texts):
        got = store["resid_post"].read(rows_of(store, example))
        np.testing.assert_allclose(got, alone[text][0], atol=1e-5)
    assert [len(s["inputs"]["sha256"]) for s in store.resume["segments"]] == [64, 64, 64]
    assert residuum.store.verify(tmp_path / "run").ok


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sites": ["z"]}, "sites is resid_pre"),
        ({"layers": "0:2"}, "layers is 0, 1, 2 there, 0, 1 here"),
        ({"dtype": "float16"}, "dtype is float32 there, float16 here"),
        ({"positions": "last"}, "positions is all there, last here"),
        ({"batch_tokens": 9}, "batch_tokens is 24 there, 9 here"),
        ({"truncate": True}, "truncate is False there, True here"),
        ({"inputs": TEXTS[:2]}, "other inputs"),
    ],
)
def test_resume_names_what_differs(gpt2_folder, tmp_path, change, says):
    capture(gpt2_folder, TEXTS, tmp_path / "run")
    settings = {"inputs": TEXTS} | change
    inputs = settings.pop("inputs")
    before = files(tmp_path / "run")
    with pytest.raises(CaptureError, match=says):
        capture(gpt2_folder, inputs, tmp_path / "run", resume=True, **settings)
    assert files(tmp_path / "run") == before


def test_another_models_store_is_refused(gpt2_folder, tmp_path):
    capture(gpt2_folder, TEXTS, tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(gpt2_folder)
    with torch.no_grad():
        model.transformer.ln_f.weight[0] += 1
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(gpt2_folder).save_pretrained(tmp_path / "other")
    with pytest.raises(CaptureError, match="the model's weights_hash"):
        capture(tmp_path / "other", TEXTS, tmp_path / "run", append=True)


def test_append_longer_than_the_key_axis_is_refused(gpt2_folder, tmp_path):
    capture(gpt2_folder, ["a dog"], tmp_path / "run", sites=["pattern"])
    with pytest.raises(InputError, match="key"):
        capture(gpt2_folder, ["a dog runs"], tmp_path / "run", sites=["pattern"], append=True)


def test_overflow_is_counted_and_leaves_nothing(gpt2_folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(gpt2_folder)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_proj.bias[3] = 1e6
    tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    settings = {"sites": ["resid_post"], "dtype": "float16", "batch_tokens": 100}
    n_row = sum(len(text.split()) for text in UNIQUE)
    with pytest.raises(CaptureError, match=rf"resid_post layer 1 \(0 NaN, {n_row} infinite\)"):
        capture((model, tokenizer), TEXTS, tmp_path / "run", **settings)
    assert list(tmp_path.iterdir()) == []
    store = capture((model, tokenizer), TEXTS, tmp_path / "run", allow_nonfinite=True, **settings)
    assert np.isinf(store["resid_post"].read(layers=1)[:, 3]).all()


def test_provenance_says_what_made_it(gpt2_folder, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    store = capture(gpt2_folder, path, tmp_path / "run")
    assert {"name", "weights_hash", "tokenizer_hash", "config", "readout"} <= set(store.model)
    assert {"sites", "layers", "dtype", "versions", "positions", "seed"} <= set(store.capture)
    [segment] = store.resume["segments"]
    assert segment["inputs"]["name"] == "in.jsonl"
    assert store.vocabulary[:4] == ["<pad>", "<unk>", "<eos>", "the"]
    assert {"W_U", "W_O", "b_O", "ln_final.w"} <= set(store.weights)


def test_columns_of_ours_in_the_input_are_refused_before_anything_is_made(gpt2_folder, tmp_path):
    table = pa.table({"text": TEXTS, "first_row": range(len(TEXTS))})
    with pytest.raises(InputError, match="`first_row`"):
        capture(gpt2_folder, table, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_used_and_inputs_may_be_walked_twice(gpt2_folder, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    capture(gpt2_folder, TEXTS, tmp_path / "run")
    monkeypatch.setattr("residuum.capture.examples.CACHED_BYTES", 0)
    capture(gpt2_folder, TEXTS, tmp_path / "again")
    assert files(tmp_path / "run") == files(tmp_path / "again")


@pytest.fixture
def interrupted(monkeypatch):
    """Presses Ctrl-C during the forward pass of that number."""

    def interrupt(number):
        run, passes = Tracer.run, []

        def interrupting(self, batch, sink):
            passes.append(1)
            if len(passes) == number:
                os.kill(os.getpid(), signal.SIGINT)
            run(self, batch, sink)

        monkeypatch.setattr(Tracer, "run", interrupting)

    return interrupt


@pytest.mark.parametrize("sites", [["pooled"], ["resid_post", "pooled"]])
@pytest.mark.parametrize("stop", ["Ctrl-C", "error"])
def test_stores_with_example_rows_resume_to_the_same_files(tmp_path, monkeypatch, sites, stop):
    monkeypatch.setattr(commit_points, "EXAMPLE_ROWS", 4)
    tiny_models.save("bert", tmp_path / "model")
    texts = [" ".join(f"w{n % 40 + k}" for k in range(n % 5 + 1)) for n in range(60)]
    settings = {"sites": sites, "batch_tokens": 3, "shard_rows": 16, "chunk_rows": 4}
    capture(tmp_path / "model", texts, tmp_path / "whole", **settings)
    run, seen = Tracer.run, []

    def stopping(self, batch, sink):
        seen.append(1)
        if len(seen) in (20, 31):
            if stop == "error":
                raise RuntimeError
            os.kill(os.getpid(), signal.SIGINT)
        run(self, batch, sink)

    with monkeypatch.context() as patched:
        patched.setattr(Tracer, "run", stopping)
        for _ in range(2):
            with pytest.raises((KeyboardInterrupt, RuntimeError)):
                capture(tmp_path / "model", texts, tmp_path / "run", resume=True, **settings)
            store = residuum.open(tmp_path / "run")
            assert 0 < store.n_example < 60
            assert store.verify().ok
            assert store["pooled"].read().shape[0] == store.rows["example"]
    capture(tmp_path / "model", texts, tmp_path / "run", resume=True, **settings)
    assert files(tmp_path / "run") == files(tmp_path / "whole")
    assert residuum.open(tmp_path / "run").commit > 2


@pytest.mark.parametrize("number", [1, 2])
def test_interrupt_keeps_what_is_complete(gpt2_folder, tmp_path, interrupted, number):
    settings = {"batch_tokens": 4}
    interrupted(number)
    with pytest.raises(KeyboardInterrupt, match=r"run holds \d examples.*--resume"):
        capture(gpt2_folder, TEXTS, tmp_path / "run", **settings)
    store = residuum.open(tmp_path / "run")
    assert not store.complete
    assert residuum.store.verify(tmp_path / "run").ok
    capture(gpt2_folder, TEXTS, tmp_path / "run", resume=True, **settings)
    capture(gpt2_folder, TEXTS, tmp_path / "whole", **settings)
    assert files(tmp_path / "run") == files(tmp_path / "whole")


def test_a_store_has_one_writer(gpt2_folder, tmp_path, interrupted):
    interrupted(1)
    with pytest.raises(KeyboardInterrupt):
        capture(gpt2_folder, TEXTS, tmp_path / "run")
    with (
        residuum.store.StoreWriter.open(tmp_path / "run"),
        pytest.raises(StoreError, match=r"run.*writ"),
    ):
        capture(gpt2_folder, TEXTS, tmp_path / "run", resume=True)
    capture(gpt2_folder, TEXTS, tmp_path / "run", resume=True)


def test_an_unfinished_store_takes_no_others(gpt2_folder, tmp_path, interrupted):
    interrupted(1)
    with pytest.raises(KeyboardInterrupt):
        capture(gpt2_folder, TEXTS, tmp_path / "run")
    with pytest.raises(CaptureError, match=r"not finished.*--resume"):
        capture(gpt2_folder, ["one two"], tmp_path / "run", append=True)


def test_an_interrupted_append_is_resumed(gpt2_folder, tmp_path, interrupted):
    more = ["the dog", "a cat", "red stars or blue stars", *TEXTS]
    settings = {"sites": ["resid_post", "z"], "batch_tokens": 2}
    for name in ("run", "whole"):
        capture(gpt2_folder, TEXTS[:3], tmp_path / name, **settings)
    capture(gpt2_folder, more, tmp_path / "whole", append=True, **settings)
    interrupted(3)
    with pytest.raises(KeyboardInterrupt):
        capture(gpt2_folder, more, tmp_path / "run", append=True, **settings)
    store = capture(gpt2_folder, more, tmp_path / "run", resume=True, **settings)
    assert store.n_example == 3 + len(more)
    assert files(tmp_path / "run") == files(tmp_path / "whole")
    whole = residuum.open(tmp_path / "whole").examples.to_table().sort_by("example")
    assert store.examples.to_table().sort_by("example").equals(whole)


def test_images_from_a_list_and_from_a_dataset_are_those_of_the_folder(tmp_path):
    tiny_models.save("clip_vision", tmp_path / "model")
    (tmp_path / "images").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (14, 17, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    pictures = [PIL.Image.open(f) for f in sorted((tmp_path / "images").iterdir())]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    table = {"image": pictures, "label": [3, 1, 4]}
    sources = {
        "folder": tmp_path / "images",
        "list": pictures,
        "dataset": datasets.Dataset.from_dict(table, features=features),
    }
    stores = {
        name: capture(tmp_path / "model", source, tmp_path / name, sites=["resid_post", "pooled"])
        for name, source in sources.items()
    }
    for site in ("resid_post", "pooled"):
        want = stores["folder"][site].read()
        assert want.shape[0] > 0
        for store in stores.values():
            np.testing.assert_array_equal(store[site].read(), want)
    assert stores["dataset"].examples.to_table().column("label").to_pylist() == [3, 1, 4]


def test_a_broken_image_is_named_and_leaves_nothing(tmp_path):
    tiny_models.save("clip_vision", tmp_path / "model")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "torn.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(InputError, match=r"row 0 is not a readable image .*torn\.png"):
        capture(tmp_path / "model", tmp_path / "images", tmp_path / "run", sites=["pooled"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("model", "inputs"), [("clip_vision", ["w1"]), ("bert", "images")])
def test_inputs_of_the_other_kind_are_refused(tmp_path, model, inputs):
    tiny_models.save(model, tmp_path / "model")
    given = [PIL.Image.new("RGB", (12, 12))] if inputs == "images" else inputs
    with pytest.raises(residuum.ResiduumError, match=r"image|text"):
        capture(tmp_path / "model", given, tmp_path / "run", sites=["resid_post"])
    assert not (tmp_path / "run").exists()


def test_chat_messages_go_through_the_template(gpt2_folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    tokenizer.chat_template = "{% for m in messages %}<eos> {{ m.content }} {% endfor %}"
    model = AutoModelForCausalLM.from_pretrained(gpt2_folder)
    path = tmp_path / "chats.jsonl"
    messages = [{"role": "user", "content": "a dog"}, {"role": "assistant", "content": "the cat"}]
    path.write_text(json.dumps({"messages": messages, "id": 7}) + "\n")
    store = capture((model, tokenizer), path, tmp_path / "run", sites=["z"])
    table = store.tokens.to_table().sort_by("token")
    assert table.column("text").to_pylist() == ["<eos>", "a", "dog", "<eos>", "the", "cat"]
    [example] = store.examples.to_table().to_pylist()
    assert example["messages"] == messages


def test_append_knows_which_positions_a_repeat_has(gpt2_folder, tmp_path, passes):
    settings = {"sites": ["z"], "positions": "column:keep"}
    first = pa.table({"text": ["a dog runs", "one two"], "keep": [[0, 2], [1]]})
    capture(gpt2_folder, first, tmp_path / "run", **settings)
    passes.clear()
    again = pa.table({"text": ["one two", "a dog runs", "a dog runs"], "keep": [[1], [0, 2], [1]]})
    store = capture(gpt2_folder, again, tmp_path / "run", append=True, **settings)
    assert passes == [(3,)], "only the other marks"
    assert rows_of(store, 2) == [None, 2]
    assert rows_of(store, 3) == [0, None, 1]
    assert rows_of(store, 4) == [None, 3, None]
