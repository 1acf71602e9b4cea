"""One study: the lens, the rows that it is judged on, and the parts that were asked for."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from residuum.analyses.rows import token_rows
from residuum.analyses.tuned_lens.depth import Depth
from residuum.analyses.tuned_lens.quality import Quality
from residuum.errors import ArgumentError
from residuum.lenses import TunedLens, names, published, save, stored, train
from residuum.lenses.another import warn_of_another
from residuum.lenses.examples import content, split, stored_examples
from residuum.lenses.removal import others
from residuum.lenses.states import States
from residuum.lenses.stored import LOGIT, path_of, read, refuse_other
from residuum.lenses.training import executor_for
from residuum.replay.readout import readout
from residuum.store.lens_files import END

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from residuum.analyses.rows import TokenRows
    from residuum.analyses.tuned_lens.params import Params
    from residuum.kernels import Judged, LensStats
    from residuum.replay.engine import Replay
    from residuum.store import Store

    Floats = NDArray[np.float32]
    Rows = NDArray[np.int64]

NAME = "tuned_lens"
BLOCK_BYTES = 32 << 20
"""Rows in memory at once, through every lens at every layer."""


def settled(store: Store, params: Params) -> Params:
    """What the store decides: which lens that is, by its content.

    Raises:
        ArgumentError: a part or a setting that means nothing.
        StoreError, ModelError: there is no such lens.
    """
    params.check()
    if params.lens is None:
        _refuse_to_replace(store, params)
    there = [_found(store, lens) for lens in (params.lens, params.beside) if lens is not None]
    if params.lens is not None:  # a lens beside is meant to be of another model
        warn_of_another(store, there[0])
    if not there:
        return replace(params, fingerprint=None)
    digest = hashlib.sha256()
    for found in there:
        for state, one in sorted(found.translators.items()):
            digest.update(str(state).encode())
            digest.update(np.ascontiguousarray(one.weight).data)
            digest.update(np.ascontiguousarray(one.bias).data)
    return replace(params, fingerprint=digest.hexdigest()[:16])


def is_there(store: Store, params: Params) -> bool:
    """Whether the lens that a kept answer is of can still be found under its name."""
    return params.lens is not None or path_of(store, params.save_as).exists()


def _refuse_to_replace(store: Store, params: Params) -> None:
    """A name stands for one way of training, so that a kept result and the lens stay together.

    Raises:
        ArgumentError: the store has a lens of that name that was trained otherwise.
    """
    if not path_of(store, params.save_as).exists():
        return
    about = stored(store, params.save_as).about
    kept = {**about, **(about.get("recipe") or {}), **(about.get("split") or {})}
    asked = {
        **asdict(params.recipe),
        "held_out": params.held_out,
        "executor": executor_for(params.executor, params.device, params.precision),
        "device": params.device,
        "precision": params.precision,
    }
    other = [name for name, value in asked.items() if kept.get(name) != value]
    if other:
        message = (
            f"{store.path} has a lens {params.save_as!r} that was trained otherwise "
            f"({other[0]}={kept.get(other[0])!r}): give the new one another name (save_as), or "
            f"judge that one (lens={params.save_as})"
        )
        raise ArgumentError(message)


def _found(store: Store, lens: str) -> TunedLens:
    """A lens by its name, else by the path of a folder or a file."""
    path = Path(lens)
    if lens in names(store):
        return stored(store, lens)
    if path.is_dir():
        found = published(lens)
    elif path.suffix == END and path.is_file():
        found = read(path)
    elif len(path.parts) > 1:
        message = f"there is no folder and no file {path} that a lens could be read from"
        raise ArgumentError(message)
    else:
        return stored(store, lens)  # of which there is none, and which says so
    refuse_other(store, found)
    return found


def _called(lens: str) -> str:
    """What a lens is called in the tables; the logit lens has its name for itself."""
    name = Path(lens).name.removesuffix(END)
    return f"{name}_tuned" if name == LOGIT else name


def _learnt(store: Store, lens: TunedLens) -> Rows | None:
    """The rows that a lens was trained on; None if they are of elsewhere, or not known."""
    kept = lens.about.get("split")
    if kept is None or content(store, kept["n_row"]) != kept.get("content"):
        return None
    examples = stored_examples(store)
    there = examples.taken(np.flatnonzero(examples.first < kept["n_row"]))
    return split(there, kept["held_out"], kept["seed"])[0].rows()


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows as every lens sees them.

    Attributes:
        rows: of the store.
        own: what the model itself makes of them.
        seen: by lens and layer; at the last layer all have the model's own.
    """

    rows: Rows
    own: Judged
    seen: dict[tuple[str, int], Judged]


PASSING: dict[str, type[Quality | Depth]] = {"quality": Quality, "depth": Depth}


class Study:
    """The parts share the lens, the split and what they read."""

    def __init__(self, store: Store, params: Params) -> None:
        """Train or find the lens."""
        self.store, self.params = store, params
        self.readout = readout(store, analysis=NAME)
        self.states = States(store, analysis=NAME)
        self.losses: pa.Table | list[Mapping[str, Any]] = []
        self.lens = self._lens()
        self.beside = None if params.beside is None else _found(store, params.beside)
        self.judged = self._judged()
        last = self.states.n_state - 1
        self.states.require(last)
        held = set(self.states.held)
        known = set(self.lens.translators)
        if self.beside is not None:
            known &= set(self.beside.translators)
        self.layers = [s for s in sorted(known) if s in held] + [last]

    def _lens(self) -> TunedLens:
        of = self.params
        if of.lens is not None:
            return _found(self.store, of.lens)
        path = path_of(self.store, of.save_as)
        trained = train(
            self.store,
            of.recipe,
            held_out=of.held_out,
            executor=of.executor,
            device=of.device,
            precision=of.precision,
            memory=of.memory,
            snapshots=path.parent / f".{path.name}.training",
        )
        save(self.store, trained.lens, of.save_as)
        self.losses = trained.losses.rename_columns(
            ["layer" if name == "state" else name for name in trained.losses.column_names]
        )
        return trained.lens

    def _judged(self) -> Rows:
        """Rows of examples that the lens was not trained on; all if it was trained elsewhere."""
        every = stored_examples(self.store).rows()
        learnt = _learnt(self.store, self.lens)
        rows = every if learnt is None else every[~np.isin(every, learnt)]
        return rows if len(rows) else every

    def trained_on(self, name: str) -> bool | None:
        """Whether a lens learnt from rows that it is judged by here; None if that is not known."""
        lens = self.names[name]
        if lens is None:
            return False
        learnt = _learnt(self.store, lens)
        return None if learnt is None else bool(np.isin(self.judged, learnt).any())

    @cached_property
    def partner(self) -> Rows | None:
        """Whose states each judged row has, if the lens is a control that learnt from others'."""
        if not (self.lens.about.get("recipe") or {}).get("shuffled"):
            return None
        return self.judged[others(len(self.judged), self.params.seed)]

    @cached_property
    def own_name(self) -> str:
        """What the lens is called."""
        return _called(self.params.lens or self.params.save_as)

    @cached_property
    def beside_name(self) -> str | None:
        """What the second lens is called, if there is one."""
        if self.params.beside is None:
            return None
        name = Path(self.params.beside).name.removesuffix(END)
        while name in (LOGIT, self.own_name):
            name = f"{name}_beside"
        return name

    @cached_property
    def names(self) -> dict[str, TunedLens | None]:
        """The lenses that are compared; None is the logit lens."""
        names = {LOGIT: None, self.own_name: self.lens}
        if self.beside_name is not None:
            names[self.beside_name] = self.beside
        return names

    @property
    def model(self) -> str:
        """The captured model's name."""
        return str(self.store.model.get("name"))

    @cached_property
    def tokens(self) -> TokenRows:
        """What the rows are."""
        return token_rows(self.store)

    def blocks(self, rows: Rows) -> Iterator[Rows]:
        """Rows, some at a time, in ascending order."""
        each = len(self.names) * len(self.layers) + 2
        step = max(1, BLOCK_BYTES // (4 * self.lens.d_model * each))
        for at in range(0, len(rows), step):
            yield rows[at : at + step]

    def final(self, rows: Rows) -> Floats:
        """What left the last block, normed."""
        return self.readout.norm.apply(self.states.finite(self.states.n_state - 1, rows))

    def normed(self, lens: TunedLens | None, layer: int, states: Floats) -> Floats:
        """States through a lens, ready for the unembedding."""
        moved = states if lens is None else lens.translated(layer, states)
        return self.readout.norm.apply(moved)

    def statistics(self, normed: Floats, final: Floats, rows: Rows) -> LensStats:
        """What the vocabulary makes of normed rows."""
        return self.readout.statistics(normed, final, self.tokens.target_id[rows], 1)

    def block_of(self, layer: int) -> int | None:
        """The block that a state leaves."""
        return layer - 1 if layer else None

    def wants(self, name: str) -> bool:
        """Whether a part was asked for."""
        return self.params.experiments is None or name in self.params.experiments

    @cached_property
    def replay(self) -> Replay:
        """Patched passes of the store's model."""
        from residuum.replay.opening import replay

        of = self.params
        return replay(
            self.store,
            of.model,
            executor=cast("Any", of.executor),
            device=of.device,
            memory=of.memory,
            progress=False,
        )

    @cached_property
    def passed(self) -> dict[str, Quality | Depth]:
        """What looks at every lens at every layer of all rows, in one pass."""
        takers = {name: made(self) for name, made in PASSING.items() if self.wants(name)}
        for rows in self.blocks(self.judged):
            block = self._block(rows)
            for taker in takers.values():
                taker.add(block)
        return takers

    def _block(self, rows: Rows) -> Block:
        """Every lens at every layer, in one call."""
        *layers, last = self.layers
        keys = [(name, layer) for layer in layers for name in self.names]
        x = np.empty((len(keys) + 1, len(rows), self.lens.d_model), np.float32)
        x[-1] = self.final(rows)
        put = iter(x)
        whose = rows if self.partner is None else self.partner[np.searchsorted(self.judged, rows)]
        for layer in layers:
            states = self.states.finite(layer, whose)
            for lens in self.names.values():
                next(put)[...] = self.normed(lens, layer, states)
        found = self.readout.judge(x, x[-1], self.tokens.target_id[rows])
        own = found.at(-1)
        seen = {key: found.at(number) for number, key in enumerate(keys)}
        return Block(rows, own, seen | dict.fromkeys([(n, last) for n in self.names], own))
