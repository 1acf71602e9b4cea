"""One study: the images, what they are, the texts, and shares along the classes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import duckdb
import numpy as np

from residuum.clip.effects import effects
from residuum.clip.search import Groups
from residuum.clip.stored import Stored
from residuum.clip.texts import Texts, classes, texts
from residuum.errors import InputError
from residuum.quantities import parse_memory
from residuum.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

    from residuum.analyses.clip_decomposition.params import Params
    from residuum.clip.effects import Convention, Effects

    Numbers = NDArray[np.int64]
    Floats = NDArray[np.float32]

NAME = "clip_decomposition"


class Study:
    """A store of images, and what the parameters name."""

    def __init__(self, store: Store, params: Params) -> None:
        """Look at the store.

        Raises:
            StoreError: it is not of a CLIP vision tower, or lacks class tokens.
            SiteError: it lacks a site.
        """
        self.store, self.params = store, params
        self.stored = Stored(store)
        self.images = self.stored.every
        self.budget = parse_memory(params.memory)
        self.model = str(store.model.get("name") or "model")
        self.left_out: list[dict[str, str]] = []

    def wants(self, name: str) -> bool:
        """Whether a part was asked for."""
        return self.params.experiments is None or name in self.params.experiments

    def leave_out(self, part: str, reason: str) -> None:
        """Note a row that a part cannot make, for the table `skipped`."""
        self.left_out.append({"experiment": part, "reason": reason})

    @property
    def all_mlps(self) -> Numbers:
        """The components of MLPs, where those of every layer were captured; else none."""
        every = self.stored.mlps == tuple(range(self.stored.tower.n_layer))
        kinds = enumerate(self.components["kind"].to_pylist())
        return np.array([n for n, kind in kinds if kind == "MLP" and every], np.int64)

    @cached_property
    def texts(self) -> Texts:
        """The pool that heads are named by.

        Raises:
            InputError: none was given.
        """
        return texts(self._given("texts", "a store of texts, captured with the text tower"))

    @cached_property
    def classes(self) -> Texts:
        """The classes.

        Raises:
            InputError: none were given.
        """
        return classes(self._given("classes", "a store of class prompts (text tower)"))

    def _given(self, name: str, what: str) -> str:
        value = getattr(self.params, name)
        if value is None:
            message = f"this needs `{name}`: {what}"
            raise InputError(message)
        return str(value)

    def named(self, names: list[str]) -> Floats:
        """Vectors of texts of the pool, or of classes, by what they say, `[text, d_embed]`.

        Raises:
            InputError: a text that is in neither store.
        """
        known: dict[str, Floats] = {}
        for read in ("texts", "classes"):
            if getattr(self.params, read) is not None:
                found = getattr(self, read)
                known |= dict(zip(found.text, found.vectors, strict=True))
        missing = [name for name in names if name not in known]
        if missing:
            stores = [path for path in (self.params.texts, self.params.classes) if path is not None]
            message = (
                f"{missing[0]!r} is no text of {' or '.join(stores) or 'any store: name texts'}: "
                "capture it with the text tower, or name one that is there"
            )
            raise InputError(message)
        return np.stack([known[name] for name in names])

    def column(self, name: str) -> NDArray[np.str_]:
        """A column of the images as text, `[image]`.

        Raises:
            InputError: there is none, or an image has no value.
        """
        if name not in self.store.examples.schema.names:
            message = (
                f"the images of {self.store.path} have no column {name!r}; they have "
                f"{', '.join(self.store.examples.schema.names)}"
            )
            raise InputError(message)
        table = self.store.examples.to_table(columns=["example", name]).sort_by("example")
        values = table[name].cast("string").to_pylist()
        if None in values:
            message = (
                f"column {name!r} of {self.store.path} is empty at example {values.index(None)}"
            )
            raise InputError(message)
        return np.array(values)

    @cached_property
    def label(self) -> Numbers:
        """The class of each image, `[image]`.

        Raises:
            InputError: no column was named, or it holds what is no class.
        """
        what = "the column of the images that names their class"
        values = self.column(self._given("label", what))
        place = {name: number for number, name in enumerate(self.classes.text)}
        other = [name for name in np.unique(values).tolist() if name not in place]
        if other:
            message = (
                f"column {self.params.label!r} holds {other[0]!r}, which is no class; the classes "
                f"are {', '.join(self.classes.text[:8])}: give the prompts a column `class`"
            )
            raise InputError(message)
        return np.array([place[name] for name in values.tolist()])

    @cached_property
    def groups(self) -> Groups:
        """Class and, where a column was named, what should not matter."""
        if self.params.group is None:
            return Groups.of(self.label)
        return Groups.of(self.label, self.column(self.params.group))

    @cached_property
    def halves(self) -> tuple[Numbers, Numbers]:
        """Places of images to calibrate on, and of those that are judged; repeats are together."""
        rows, image = np.unique(self.images.row, return_inverse=True)
        order = np.random.default_rng([self.params.seed, 0]).permutation(len(rows))
        n = round(len(rows) * self.params.calibration)
        if not 0 < n < len(rows):
            message = f"{len(rows)} distinct images cannot be halved: capture more"
            raise InputError(message)
        first = np.zeros(len(rows), bool)
        first[order[:n]] = True
        return np.flatnonzero(first[image]), np.flatnonzero(~first[image])

    def along(self, directions: Floats, examples: Numbers | None = None) -> Effects:
        """Shares along directions, in the study's convention."""
        of = self.params
        convention = cast("Convention", of.convention)
        return effects(
            self.stored,
            directions,
            examples=examples,
            convention=convention,
            unit=of.unit,
            memory=of.memory,
        )

    def blocks(self, directions: Floats) -> Iterator[tuple[slice, Effects]]:
        """The same block by block, within the memory budget."""
        n_component = self.stored.tower.n_layer * (self.stored.tower.n_head + 2) + 2
        for place in self.images.blocks(8 * n_component * len(directions), self.budget):
            yield place, self.along(directions, self.images.example[place])

    @cached_property
    def components(self) -> pa.Table:
        """What the store holds of the stream; see `Effects.components`."""
        one = np.zeros((1, self.stored.tower.d_embed), np.float32)
        return self.along(one, self.images.example[:1]).components

    @cached_property
    def shares(self) -> Effects:
        """Shares of all images along the classes.

        Raises:
            InputError: they do not fit the memory.
        """
        n_component = self.stored.tower.n_layer * (self.stored.tower.n_head + 2) + 2
        needed = 8 * n_component * len(self.images) * len(self.classes)
        if needed > self.budget:
            message = (
                f"shares of {len(self.images)} images along {len(self.classes)} classes take "
                f"{needed / 2**30:.1f} GiB, more than memory={self.params.memory}: give more, or "
                "two classes"
            )
            raise InputError(message)
        return self.along(self.classes.vectors)


def heads_named_by(store: Store, query: str) -> list[tuple[int, int]]:
    """Pairs of layer and head.

    Raises:
        InputError: the query cannot be run, or has other columns.
    """
    try:
        table = store.sql(query).to_arrow_table()
    except duckdb.Error as error:
        message = (
            f"remove cannot be run: {error} (texts of heads are there once `textspan` has been run)"
        )
        raise InputError(message) from error
    if not {"layer", "head"} <= set(table.column_names):
        message = (
            "remove is a query with the columns layer and head, not "
            f"{', '.join(table.column_names)}: {query}"
        )
        raise InputError(message)
    return sorted(set(zip(table["layer"].to_pylist(), table["head"].to_pylist(), strict=True)))


def _check_same_model(store: Store, path: str) -> None:
    """Refuse texts of another model, which lie in another space of the same width.

    Hashes of models that were handed over loaded say nothing: each tower may have its own.

    Raises:
        InputError: both were read from files, which differ.
    """
    ours, theirs = (str(one.model.get("weights_hash")) for one in (store, Store(path)))
    if ours != theirs and all(one.startswith("sha256-files:") for one in (ours, theirs)):
        message = (
            f"the texts of {path} are of another model than the images of {store.path}: capture "
            "them with the text tower of the same checkpoint"
        )
        raise InputError(message)


def settled(store: Store, params: Params) -> Params:
    """What other files hold, and what a query answers, stand in a result's key by their content.

    Raises:
        ArgumentError: a part or a number that means nothing.
        StoreError: there is no such store of texts.
        InputError: there is no such file of masks, or a query that cannot be run.
    """
    params.check()
    digest, known = hashlib.sha256(), set()
    for path, read in ((params.texts, texts), (params.classes, classes)):
        if path is not None:
            found = read(path)
            _check_same_model(store, path)
            known.update(found.text)
            digest.update(json.dumps(found.text).encode())
            digest.update(found.vectors.tobytes())
    for cue in params.cues:
        if cue not in known:
            message = (
                f"the cue {cue!r} is no text of {params.texts or params.classes or 'any store'}: "
                "capture it with the texts, or name one that is there"
            )
            raise InputError(message)
    if params.masks is not None:
        if not Path(params.masks).is_file():
            message = f"there is no file of masks {params.masks}"
            raise InputError(message)
        digest.update(f"{params.masks} {Path(params.masks).stat().st_mtime_ns}".encode())
    if params.remove is not None:
        digest.update(json.dumps(heads_named_by(store, params.remove)).encode())
    return replace(params, fingerprint=digest.hexdigest()[:16])
