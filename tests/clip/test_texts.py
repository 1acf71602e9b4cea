"""Texts and classes that have no direction, or no name, must not become NaN or a class `None`."""

import numpy as np
import pyarrow as pa
import pytest
import tiny_models
import torch

import residuum
from residuum.clip import classes, texts
from residuum.errors import ArgumentError, InputError, StoreError

SAID = ["w1 w2", "w3", "w4 w5 w6"]


@pytest.fixture
def model():
    return tiny_models.build("clip_text", torch.float32)


def read(model, inputs, out):
    reader = (model, tiny_models.tokenizer())
    return residuum.capture(reader, inputs, out, sites=["pooled"], device="cpu")


def test_a_prompt_without_a_class_is_named(model, tmp_path):
    table = pa.table({"text": SAID, "class": ["a", None, "b"], "kind": ["x", "y", "x"]})
    store = read(model, table, tmp_path / "run")
    with pytest.raises(InputError, match=r"column 'class' of .* is empty at example 1"):
        classes(store)
    assert classes(store, column="kind").text == ["x", "y"]


def test_a_column_that_is_not_there_is_an_error_where_it_was_asked_for(model, tmp_path):
    store = read(model, SAID, tmp_path / "run")
    with pytest.raises(InputError, match=r"no column 'kind'; they have .*text"):
        classes(store, column="kind")
    assert classes(store).text == SAID


@pytest.mark.parametrize("size", [0.0, float("inf")])
def test_a_text_without_a_direction_is_named(model, tmp_path, size):
    with torch.no_grad():
        model.text_projection.weight *= 0
    path = read(model, SAID, tmp_path / "run").path
    store = residuum.open(path)
    if size:
        store = _Scaled(store, size)
    for call in (texts, classes):
        with pytest.raises(StoreError, match=r"the vector of 'w1 w2' in .* is zero or not finite"):
            call(store)


def test_classes_whose_prompts_cancel_are_named(model, tmp_path):
    table = pa.table({"text": SAID[:2], "class": ["a", "a"]})
    store = read(model, table, tmp_path / "run")
    one = store["pooled"].read(np.array([0]), dtype=np.float32)
    opposite = _Scaled(store, np.concatenate([one, -one]))
    with pytest.raises(StoreError, match="the vector of 'a' in"):
        classes(opposite)


def test_texts_are_asked_for_by_what_they_say(model, tmp_path):
    found = texts(read(model, SAID, tmp_path / "run"))
    for missing in ("a dog", ["w3"], 1):
        with pytest.raises(ArgumentError, match=r"there is no text .* among the 3"):
            found.of("w3", missing)


class _Scaled(residuum.Store):
    """A store whose vectors of texts are others, or multiplied."""

    def __init__(self, store, by):
        super().__init__(store.path)
        self.by = by

    def __getitem__(self, name):
        return _Site(super().__getitem__(name), self.by)


class _Site:
    def __init__(self, site, by):
        self.site, self.by = site, by

    def read(self, rows, *, dtype):
        found = self.site.read(rows, dtype=dtype)
        return self.by if np.ndim(self.by) else np.full_like(found, self.by)
