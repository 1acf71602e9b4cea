"""Files of tuned lenses, `lenses/NAME.safetensors`: which there are, and whether one is whole.

What is in one is in docs/format.md; what it means, `residuum.lenses` knows.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from residuum.errors import StoreError
from residuum.store import tensor_file
from residuum.store.s3_path import StorePath
from residuum.store.weights import Weights

FOLDER, END = "lenses", ".safetensors"
KEY = "residuum"
"""The text of a file's metadata that says what the lens is."""
REMEDY = "remove the file, and train the lens again or save it again"

_KEYS = re.compile(r"(0|[1-9][0-9]{0,8})\.(weight|bias)")


@dataclass(frozen=True, eq=False)
class LensFile:
    """The tensors of a lens, none of which is read, and what the file says of them.

    Attributes:
        tensors: `{state}.weight` `[d_model, d_model]` and `{state}.bias` `[d_model]`.
        states: those that have a translator, ascending; at least one.
        n_state: states of the model, one more than blocks.
        d_model: width of the stream.
        about: what else the file says: `model`, `recipe`, … (plain values).
    """

    tensors: Weights
    states: tuple[int, ...]
    n_state: int
    d_model: int
    about: Mapping[str, Any]


def files(store: StorePath) -> list[StorePath]:
    """The lens files of the store in a folder or bucket, sorted."""
    # What a training keeps of itself begins with a dot.
    return sorted((store / FOLDER).glob(f"[!.]*{END}"), key=lambda path: path.name)


def name_of(file: StorePath) -> str:
    """The name that a lens has in SQL and Python."""
    return file.name.removesuffix(END)


def read(path: StorePath, model: Mapping[str, Any] | None = None) -> LensFile:
    """Open a lens; its tensors stay on disk.

    Args:
        path: its file.
        model: `Store.model` that it has to be of; None takes one of any model.

    Raises:
        StoreError: the file is damaged, no lens, or one of another model.
    """
    try:
        tensors = Weights(path)
        lens = _lens(tensors, _about(path))
        _refuse_other_model(lens, model or {})
    except StoreError as error:
        damaged = str(error).startswith(
            f"{path} is damaged"
        )  # else a server that cannot be reached
        message = f"{error}; {REMEDY}" if damaged else str(error)
        raise StoreError(message) from error
    except (ValueError, RecursionError) as error:
        message = f"{path} is no lens that fits: {error}; {REMEDY}"
        raise StoreError(message) from error
    return lens


def not_finite(lens: LensFile) -> dict[str, int]:
    """How many NaN and infinities a tensor holds, of those that do; reads one after the other."""
    counts = {name: np.count_nonzero(~np.isfinite(lens.tensors[name])) for name in lens.tensors}
    return {name: int(n) for name, n in counts.items() if n}


def _about(path: StorePath) -> dict[str, Any]:
    """The JSON object among a file's metadata.

    Raises:
        ValueError: there is none.
    """
    text = tensor_file.read_metadata(path).get(KEY)
    about = json.loads(text) if isinstance(text, str) else None
    if not isinstance(about, dict):
        message = f"its metadata have no JSON object `{KEY}`"
        raise ValueError(message)
    return about


def _lens(tensors: Weights, about: dict[str, Any]) -> LensFile:
    """The lens that tensors and metadata are together.

    Raises:
        ValueError: they are none.
    """
    n_state = about.pop("n_state", None)
    if type(n_state) is not int or n_state < 2:
        message = f"`n_state` in its metadata is {n_state!r}, not a number from 2 on"
        raise ValueError(message)
    odd = next((name for name in tensors if not _KEYS.fullmatch(name)), None)
    if odd is not None:
        message = f"it holds `{odd}`, where a lens has `0.weight`, `0.bias` and so on"
        raise ValueError(message)
    states = tuple(sorted({int(name.partition(".")[0]) for name in tensors}))
    if not states or states[-1] > n_state - 2:
        message = f"it has translators of states {list(states)}, but `n_state` is {n_state}"
        raise ValueError(message)
    return LensFile(tensors, states, n_state, _width(tensors, states), about)


def _width(tensors: Weights, states: Sequence[int]) -> int:
    """`d_model` of a lens, the same for each state.

    Raises:
        ValueError: a tensor that is missing or of another shape.
    """
    shapes = {name: list(tensors.shape(name)) for name in tensors}
    d_model = (shapes.get(f"{states[0]}.bias") or [0])[0]
    for state in states:
        for part, shape in (("weight", [d_model, d_model]), ("bias", [d_model])):
            has = shapes.get(f"{state}.{part}")
            if has != shape:
                message = f"`{state}.{part}` is {has or 'missing'}, but should be {shape}"
                raise ValueError(message)
    return d_model


def _refuse_other_model(lens: LensFile, model: Mapping[str, Any]) -> None:
    """Check a lens against what a store says of its model, which need not be all.

    Raises:
        ValueError: another number of blocks, or another width.
    """
    for axis, length in (("layer", lens.n_state - 1), ("d_model", lens.d_model)):
        of_model = model.get("n_layer" if axis == "layer" else axis)
        if of_model not in (None, length):
            message = f"axis `{axis}` is {length} in the lens but {of_model} in the model"
            raise ValueError(message)
