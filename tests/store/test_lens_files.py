"""Lenses beside the arrays: listed, and checked by `verify` down to the last number."""

import json
import math

import numpy as np
import pytest
import safetensors.numpy
from store import made

from residuum.errors import StoreError
from residuum.store import lens_files, verify

N_STATE = made.N_LAYER + 1


def translators(states=range(made.N_LAYER), d_model=made.D_MODEL, dtype="float32"):
    draw = np.random.default_rng(0)
    shapes = {"weight": (d_model, d_model), "bias": (d_model,)}
    return {
        f"{state}.{part}": draw.standard_normal(shape).astype(dtype)
        for state in states
        for part, shape in shapes.items()
    }


def put(path, tensors=None, about='{"n_state": 4, "model": "m"}', name="tuned"):
    """A lens as the library safetensors writes it."""
    file = path / "lenses" / f"{name}.safetensors"
    file.parent.mkdir(exist_ok=True)
    metadata = None if about is None else {"residuum": about}
    safetensors.numpy.save_file(translators() if tensors is None else tensors, file, metadata)
    return file


def test_lenses_are_listed(store, own):
    assert store.lenses == ()
    assert store.info()["lenses"] == []
    assert "tuned" not in str(store)
    put(own.path, name="tuned")
    put(own.path, name="b.2")
    (own.path / "lenses" / ".tuned.safetensors.training").write_bytes(b"of a training")
    (own.path / "lenses" / "notes.txt").write_text("no lens")
    assert store.lenses == ("b.2", "tuned")
    assert store.info()["lenses"] == ["b.2", "tuned"]
    assert str(store).splitlines()[-1] == "  tuned lenses: b.2, tuned"
    assert "<p>tuned lenses: b.2, tuned</p>" in store._repr_html_()


def test_a_whole_lens_is_no_problem(store, own):
    before = store.verify()
    put(own.path)
    put(own.path, translators([1], dtype="float16"), name="half")
    report = store.verify()
    assert report.ok
    assert report.files == before.files + 2
    lens = lens_files.read(lens_files.files(own.path)[1], store.model)
    assert (lens.states, lens.n_state, lens.d_model) == ((0, 1, 2), N_STATE, made.D_MODEL)
    assert lens.about == {"model": "m"}


def cut(by):
    def damage(file):
        data = file.read_bytes()
        file.write_bytes(data[:by] if by < 0 else data[: min(by, len(data))])

    return damage


def header(change):
    """Rewrites the header, which the tensors then follow as before."""

    def damage(file):
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        text = json.dumps(change(json.loads(data[8 : 8 + length]))).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return damage


def padded(file):
    file.write_bytes(file.read_bytes() + b"more")


DAMAGE = {
    "empty": (cut(0), "damaged: its header claims 0 bytes"),
    "cut in its length": (cut(5), "damaged"),
    "cut in its header": (cut(50), "damaged: its header claims"),
    "cut in its tensors": (cut(-7), "damaged: its header is wrong"),
    "longer": (padded, "damaged: its header is wrong: its tensors end at"),
    "no JSON": (lambda file: file.write_bytes(b"\x04" + b"\0" * 7 + b"{{{{"), "damaged"),
    "deep": (
        lambda file: file.write_bytes((10**5).to_bytes(8, "little") + b"[" * 10**5),
        "damaged",
    ),
    "a list": (header(lambda _: [1]), "damaged"),
    "metadata of a list": (header(lambda h: {**h, "__metadata__": [1]}), "no JSON object"),
    "infinite": (
        header(lambda h: {**h, "0.bias": {**h["0.bias"], "shape": [math.inf]}}),
        "damaged: its header is wrong",
    ),
    "overlapping": (
        header(lambda h: {**h, "0.bias": h["1.bias"]}),
        "damaged: its header is wrong: `",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_lens_is_a_problem(store, own, damage):
    file = put(own.path)
    put(own.path, name="whole")
    harm, says = DAMAGE[damage]
    harm(file)
    (problem,) = store.verify().problems
    assert problem.file == "lenses/tuned.safetensors"
    assert problem.what.startswith("it is ")
    assert says in problem.what
    assert problem.what.endswith("remove the file, and train the lens again or save it again")
    with pytest.raises(StoreError, match=r"lenses/tuned\.safetensors is .* remove the file"):
        lens_files.read(file)


def without(name):
    tensors = translators()
    del tensors[name]
    return tensors


def with_one(name, values):
    return {**translators(), name: np.asarray(values, np.float32)}


D = made.D_MODEL
MISFITS = {
    "no metadata": (None, None, "no JSON object `residuum`"),
    "metadata that are no JSON": (None, "{", "no lens"),
    "metadata of a list": (None, "[4]", "no JSON object `residuum`"),
    "no number of states": (None, "{}", "`n_state` in its metadata is None"),
    "a text for it": (None, '{"n_state": "4"}', "`n_state` in its metadata is '4'"),
    "a yes for it": (None, '{"n_state": true}', "`n_state` in its metadata is True"),
    "no weight": (without("1.weight"), None, "`1.weight` is missing"),
    "no bias of the first": (without("0.bias"), None, "`0.weight` is [11, 11], but should be"),
    "a longer bias": (
        with_one("2.bias", np.ones(12)),
        None,
        "`2.bias` is [12], but should be [11]",
    ),
    "an oblong weight": (with_one("0.weight", np.ones((11, 12))), None, "`0.weight` is [11, 12]"),
    "a deep bias": (with_one("1.bias", np.ones((11, 1))), None, "`1.bias` is [11, 1]"),
    "another tensor": (with_one("W_U", np.ones((11, 13))), None, "it holds `W_U`"),
    "a zero in front": (with_one("01.bias", np.ones(11)), None, "it holds `01.bias`"),
    "the last state": (translators([1, 3]), None, "of states [1, 3], but `n_state` is 4"),
    "nothing": ({}, None, "of states [], but `n_state` is 4"),
    "integers": ({"0.bias": np.ones(11, "int32")}, None, "damaged"),
    "another model": (None, '{"n_state": 5}', "axis `layer` is 4 in the lens but 3 in the model"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_is_no_lens_of_the_model_is_a_problem(store, own, misfit):
    tensors, about, says = MISFITS[misfit]
    if about is None and misfit != "no metadata":
        about = '{"n_state": 4}'
    put(own.path, tensors, about)
    (problem,) = store.verify().problems
    assert problem.file == "lenses/tuned.safetensors"
    assert says in problem.what
    assert "remove the file" in problem.what


def test_another_width_than_the_model_s_is_a_problem(own):
    file = put(own.path)
    with pytest.raises(StoreError, match=r"axis `d_model` is 11 in the lens but 12 in the model"):
        lens_files.read(file, {"d_model": 12})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_a_problem(store, own, value):
    tensors = translators()
    tensors["1.weight"][3, 4:7] = value
    tensors["2.bias"][0] = value
    put(own.path, tensors)
    first, second = store.verify().problems
    assert first.file == second.file == "lenses/tuned.safetensors"
    assert first.what.startswith("`1.weight` has NaN or infinity 3 times; remove the file")
    assert second.what.startswith("`2.bias` has NaN or infinity 1 time; remove the file")


def test_a_folder_that_is_called_like_a_lens_is_a_problem(store, own):
    (own.path / "lenses" / "tuned.safetensors").mkdir(parents=True)
    (problem,) = store.verify().problems
    assert problem.file == "lenses/tuned.safetensors"


def test_a_lens_is_checked_where_the_store_cannot_be_opened(own):
    put(own.path).write_bytes(b"none")
    (own.path / "activations" / "z" / "zarr.json").unlink()
    assert {"lenses/tuned.safetensors"} < {problem.file for problem in verify(own.path).problems}
