"""Train the translators of a store's states, from what the store holds: the model runs no more.

examples ──split──▶ steps of whole examples ──▶ lessons (blocks of rows) ──kit──▶ gradients
                                                                              │
                      TunedLens ◀── after the last step ◀── optimizer ◀── clip ┘
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from residuum.errors import ArgumentError, SiteError, StoreError
from residuum.lenses import snapshot
from residuum.lenses.examples import Examples, content, split, steps, stored_examples
from residuum.lenses.kit import Lesson
from residuum.lenses.least_squares import least_squares
from residuum.lenses.optimizer import SGD, Adam
from residuum.lenses.recipe import Recipe
from residuum.lenses.removal import others
from residuum.lenses.rust_kit import RustKit
from residuum.lenses.states import States
from residuum.lenses.tuned import Translator, TunedLens
from residuum.progress import reporter
from residuum.quantities import parse_memory
from residuum.replay.opening import torch_device
from residuum.replay.readout import readout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from residuum.lenses.kit import Array, Kit
    from residuum.lenses.optimizer import Optimizer
    from residuum.store import Store
    from residuum.store.s3_path import StorePath

    Rows = NDArray[np.int64]

MOST_TOKENS = 1 << 18
"""Of a step, in the paper."""
LOSSES = pa.schema(
    [("step", pa.int32()), ("state", pa.int32()), ("loss", pa.float64()), ("n", pa.int64())]
)


@dataclass(frozen=True, eq=False)
class Trained:
    """A lens, and how it came about.

    Attributes:
        lens: the translators.
        losses: a row for each step and state: step, state, loss (mean nats a token, before the
            step), n (tokens).
        trained_on, held_out: the examples.
    """

    lens: TunedLens
    losses: pa.Table
    trained_on: Examples
    held_out: Examples


def train(
    store: Store,
    recipe: Recipe | None = None,
    *,
    states: Sequence[int] | None = None,
    held_out: float = 0.2,
    executor: str = "auto",
    device: str = "cpu",
    precision: str = "float32",
    memory: int | str = "1GB",
    snapshots: StorePath | None = None,
    progress: bool | None = None,
) -> Trained:
    """Train a lens on the cached stream (Belrose et al. 2023, section 3).

    Args:
        store: with states of the stream (`resid_pre`, `resid_post`, `embed`, …) and the last.
        recipe: settings; those of the paper by default.
        states: to train; by default all that the store holds.
        held_out: share of the examples that is left out, for judging the lens.
        executor: "rust" on the CPU, or "torch", which has to be installed, on any device; "auto" is
            Rust where the device is the CPU.
        device: of torch, such as "cuda".
        precision: of products as wide as the vocabulary: "float32", or "bfloat16" by torch, twice
            as fast where the processor has such products, and as exact as the package.
        memory: bytes for the rows that are computed together, such as "1GB".
        snapshots: file that keeps where a training is, about once a minute; one that is there and
            of the same question is gone on with, to the same end bit for bit.
        progress: show a bar of the steps; by default where stderr is a terminal.

    Raises:
        SiteError: the store does not hold the states.
        StoreError: the model has no unembedding, or numbers that are not finite.
        ArgumentError: settings that mean nothing, no states or one twice, or too few examples.
    """
    recipe = _a_recipe(recipe or Recipe())
    of = readout(store, analysis="tuned_lens")
    lessons = _Lessons(store, states, recipe, parse_memory(memory, least=1))
    examples, judged = split(stored_examples(store), held_out, recipe.seed)
    if not len(examples):
        message = f"{store.path} holds no rows to train a lens on"
        raise ArgumentError(message)
    if recipe.shuffled:
        lessons.shuffle(examples.rows(), recipe.seed)
    kit = _kit(executor, device, precision, of)
    start = _start(recipe, lessons, examples)
    run = _Run(recipe, lessons, examples, kit, start)
    question = {
        "recipe": asdict(recipe),
        "states": lessons.trained,
        "held_out": held_out,
        "executor": type(kit).__name__,
        "precision": precision,
        "commit": store.commit,
    }
    with reporter("tuned lens", show=progress) as bar:
        run.go(bar, snapshot.Keeper(snapshots, question))
    translators = dict(zip(lessons.trained, run.translators(), strict=True))
    about = {
        "model": store.model.get("name"),
        "revision": store.model.get("revision"),
        "weights_hash": store.model.get("weights_hash"),
        "recipe": asdict(recipe),
        "executor": executor_for(executor, device, precision),
        "device": device,
        "precision": precision,
        # Of the examples whose rows were there: others may come later.
        "split": {
            "held_out": held_out,
            "seed": recipe.seed,
            "n_row": store.rows["token"],
            "content": content(store, store.rows["token"]),
        },
        "n_example": len(examples),
        "n_token": examples.n_row,
    }
    lens = TunedLens(translators, lessons.of.n_state, about)
    return Trained(lens, run.table(), examples, judged)


def _a_recipe(value: object) -> Recipe:
    """Refuse what is no recipe.

    Raises:
        ArgumentError: it is something else, such as the name of an optimizer.
    """
    if not isinstance(value, Recipe):
        message = f"a recipe is residuum.lenses.Recipe(...), not {value!r}"
        raise ArgumentError(message)
    return value


def executor_for(executor: str, device: str, precision: str) -> str:
    """Which executor trains: "rust" or "torch".

    Raises:
        ArgumentError: one that there is not, or that cannot do what is asked.
    """
    if executor not in ("auto", "rust", "torch"):
        message = f"there is no executor {executor!r}: it is auto, rust or torch"
        raise ArgumentError(message)
    if executor == "rust" and device != "cpu":
        message = f"the Rust executor computes on the CPU, not on {device}: take executor='torch'"
        raise ArgumentError(message)
    if precision not in ("float32", "bfloat16"):
        message = f"precision is float32 or bfloat16, not {precision!r}"
        raise ArgumentError(message)
    if executor == "rust" and precision != "float32":
        message = "the Rust executor computes in float32: take executor='torch' for bfloat16"
        raise ArgumentError(message)
    return "torch" if executor == "torch" or device != "cpu" or precision != "float32" else "rust"


def _kit(executor: str, device: str, precision: str, of: Any) -> Kit:  # noqa: ANN401
    if executor_for(executor, device, precision) == "torch":
        where = torch_device(device)
        from residuum.lenses.torch_kit import TorchKit

        return TorchKit(of, where, precision)
    return RustKit(of)


class _Lessons:
    """Reads rows of a store as what a kit learns from."""

    def __init__(
        self, store: Store, states: Sequence[int] | None, recipe: Recipe, memory: int
    ) -> None:
        self.store = store
        self.of = States(store, analysis="tuned_lens")
        last = self.of.n_state - 1
        self.trained = [s for s in self.of.held if s != last] if states is None else list(states)
        for state in self.trained:
            if not 0 <= state < last:
                message = f"state {state} has no translator: they are 0 to {last - 1}"
                raise ArgumentError(message)
            self.of.require(state)
        _refuse_states(store, states, self.trained)
        self.target = None
        if recipe.loss == "ce":
            self.target = store.target
            if self.target is None:
                message = f"{store.path} does not know the next tokens: loss='kl' needs none"
                raise StoreError(message)
        if recipe.loss == "kl" or recipe.start == "least_squares":
            self.of.require(last)
        self.d_model = int(store.model["d_model"])
        self.partner: Rows | None = None
        # Rows of every state, translated, normed, their gradients, and the steps between.
        self.most = max(1, memory // (4 * self.d_model * (6 * len(self.trained) + 2)))

    def shuffle(self, rows: Rows, seed: int) -> None:
        """From here on these rows have the states of others among them."""
        self.partner = np.full(int(rows.max()) + 1, -1)
        self.partner[rows] = rows[others(len(rows), seed)]

    def of_rows(self, rows: Rows, *, final: bool = True) -> Iterator[Lesson]:
        """Rows, some at a time."""
        for at in range(0, len(rows), self.most):
            part = np.sort(rows[at : at + self.most])
            states = np.empty((len(self.trained), len(part), self.d_model), np.float32)
            seen = part if self.partner is None else self.partner[part]
            for state, out in zip(self.trained, states, strict=True):
                out[...] = self.of.read(state, seen)
            last = self.of.read(self.of.n_state - 1, part) if final else None
            targets = None
            if not final and self.target is not None:
                targets = self.target.read(rows=part).astype(np.int32)
            yield Lesson(states, last, targets)


def _refuse_states(store: Store, asked: Sequence[int] | None, states: Sequence[int]) -> None:
    """Refuse no states, and a state twice.

    Raises:
        ArgumentError: of those that were asked for.
        SiteError: the store holds none but the last.
    """
    if asked is None and not states:
        message = f"{store.path} holds none of the states that a lens has maps for"
        raise SiteError(message)
    if not states:
        message = "states=[] names no state to train: leave it out to train all that there are"
        raise ArgumentError(message)
    twice = [state for state in states if list(states).count(state) > 1]
    if twice:
        message = f"state {twice[0]} is named twice in states={list(states)}"
        raise ArgumentError(message)


def _start(recipe: Recipe, lessons: _Lessons, examples: Examples) -> list[Translator]:
    """The translators before the first step."""
    n, d_model = len(lessons.trained), lessons.d_model
    if recipe.start == "least_squares":
        return least_squares(lessons.of_rows(examples.rows()), n, d_model)
    zero = np.zeros((d_model, d_model), np.float32)
    return [Translator(zero, np.zeros(d_model, np.float32))] * n


class _Run:
    """A training on its way."""

    def __init__(
        self,
        recipe: Recipe,
        lessons: _Lessons,
        examples: Examples,
        kit: Kit,
        start: Sequence[Translator],
    ) -> None:
        self.recipe, self.lessons, self.examples, self.kit = recipe, lessons, examples, kit
        self.parameters: list[Array] = [
            kit.array(values) for one in start for values in (one.weight, one.bias)
        ]
        self.free = self.parameters[1::2] if recipe.bias_only else self.parameters
        self.optimizer = self._optimizer()
        self.step = 0
        self.losses: list[tuple[int, NDArray[np.float64]]] = []

    def _optimizer(self) -> Optimizer:
        of, kit = self.recipe, self.kit
        if of.optimizer == "sgd":
            return SGD(self.free, kit.zeros, of.momentum, of.weight_decay)
        return Adam(self.free, kit.zeros, kit.maximum, of.momentum, of.weight_decay)

    def go(self, bar: Any, keeper: snapshot.Keeper) -> None:  # noqa: ANN401
        """All steps, from where a snapshot ends."""
        of = self.recipe
        keeper.restore(self)
        bar.start(of.steps, self.step)
        tokens = min(MOST_TOKENS, self.examples.n_row)
        tokens = of.tokens_per_step or tokens
        for taken in islice(steps(self.examples, tokens, of.seed), self.step, of.steps):
            rows = self.examples.taken(taken).rows()
            with np.errstate(over="ignore", invalid="ignore"):  # it is looked at, and named
                self._step(rows)
            bar.advance(done=1, rows=len(rows), n_bytes=0)
            keeper.keep(self)
        keeper.done()

    def _step(self, rows: Rows) -> None:
        kl = self.recipe.loss == "kl"
        gradients = [self.kit.zeros(p) for p in self.parameters]
        losses, n = np.zeros(len(self.lessons.trained)), 0
        for lesson in self.lessons.of_rows(rows, final=kl):
            found = self.kit.learn(lesson, self.parameters, gradients)
            losses += found.sum(1, dtype=np.float64)
            n += lesson.n_taught
        self._refuse_nan(losses, rows)
        self.losses.append((n, losses / max(1, n)))
        free = gradients[1::2] if self.recipe.bias_only else gradients
        norm = float(sum(float((g * g).sum()) for g in free)) ** 0.5 / max(1, n)
        # As torch's clip_grad_norm_, which divides by a little more than the norm.
        factor = min(1.0, self.recipe.clip / (norm + 1e-6)) / max(1, n)
        for g in free:
            g *= factor
        self.optimizer.step(self.step, free, self.recipe.rate(self.step))
        self.step += 1

    def _refuse_nan(self, losses: NDArray[np.float64], rows: Rows) -> None:
        """Say which state is to blame.

        Raises:
            StoreError: a loss is not finite.
        """
        if np.isfinite(losses).all():
            return
        state = self.lessons.trained[int(np.flatnonzero(~np.isfinite(losses))[0])]
        last = self.lessons.of.n_state - 1
        for at in (state, last):
            self.lessons.of.finite(at, np.sort(rows))
        message = (
            f"the loss of state {state} is not finite at step {self.step}: give a smaller "
            f"rate_scale than {self.recipe.rate_scale}"
        )
        raise StoreError(message)

    def translators(self) -> list[Translator]:
        """As they are now."""
        each = [self.kit.numpy(p) for p in self.parameters]
        return [Translator(w, b) for w, b in zip(each[::2], each[1::2], strict=True)]

    def table(self) -> pa.Table:
        """The losses so far."""
        trained = self.lessons.trained
        rows = [
            {"step": step, "state": state, "loss": loss, "n": n}
            for step, (n, losses) in enumerate(self.losses)
            for state, loss in zip(trained, losses.tolist(), strict=True)
        ]
        return pa.Table.from_pylist(rows, LOSSES)
