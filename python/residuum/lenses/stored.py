"""Lenses of a store: `lenses/NAME.safetensors`, with `{state}.weight` and `{state}.bias`.

The file's metadata say how many states the model has, and where the lens comes from.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np

from residuum.errors import ArgumentError, StoreError
from residuum.lenses.another import warn_of_another
from residuum.lenses.tuned import Translator, TunedLens
from residuum.store import lens_files, tensor_file
from residuum.store.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, BinaryIO

    from numpy.typing import NDArray

    from residuum.store import Store
    from residuum.store.s3_path import StorePath

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
LOGIT = "logit"
"""What the logit lens is called in tables, so that no other lens is."""


def path_of(store: Store, name: str) -> StorePath:
    """Where a lens of that name lies.

    Raises:
        ArgumentError: a name that no file can have.
    """
    if not _NAME.fullmatch(name):
        message = f"a lens is named with letters, digits, _, . and -, not {name!r}"
        raise ArgumentError(message)
    return store.path / lens_files.FOLDER / f"{name}{lens_files.END}"


def names(store: Store) -> list[str]:
    """The store's lenses, sorted."""
    return list(store.lenses)


def save(store: Store, lens: TunedLens, name: str) -> None:
    """Keep a lens in the store, where SQL finds it by name; one of that name is replaced.

    Raises:
        ArgumentError: a name that no file can have or that the logit lens has, a lens of another
            width, or numbers in it that are not finite.
    """
    if name == LOGIT:
        message = f"{LOGIT!r} is what the logit lens is called in tables: take another name"
        raise ArgumentError(message)
    refuse_other(store, lens)
    warn_of_another(store, lens)
    path = path_of(store, name)
    tensors = {
        f"{state}.{part}": np.ascontiguousarray(values, np.float32)
        for state, one in sorted(lens.translators.items())
        for part, values in (("weight", one.weight), ("bias", one.bias))
    }
    for key, values in tensors.items():
        if not np.isfinite(values).all():
            message = f"`{key}` of the lens {name!r} has NaN or infinity: train it again"
            raise ArgumentError(message)
    write_tensors(path, tensors, {"n_state": lens.n_state, **lens.about})


def write_tensors(
    path: StorePath, tensors: Mapping[str, NDArray[Any]], about: Mapping[str, Any]
) -> None:
    """Write float32 tensors and what is known of them."""
    shapes = {key: (values.dtype, values.shape) for key, values in tensors.items()}

    def write(file: BinaryIO) -> None:
        file.write(tensor_file.header_bytes(shapes, {lens_files.KEY: json.dumps(about)}))
        for values in tensors.values():
            file.write(values.reshape(-1).view(np.uint8).data)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, write)


def stored(store: Store, name: str) -> TunedLens:
    """A lens of the store; its tensors are memory-mapped.

    Raises:
        StoreError: there is none of that name, or its file is damaged.
    """
    path = path_of(store, name)
    if not path.exists():
        message = (
            f"{store.path} has no lens {name!r}; it has {', '.join(names(store)) or 'none'}: train "
            f"one with `residuum run tuned_lens {store.path}`"
        )
        raise StoreError(message)
    lens = read(path)
    refuse_other(store, lens)
    return lens


def read(path: StorePath) -> TunedLens:
    """The lens of a file.

    Raises:
        StoreError: it is damaged, or no lens.
    """
    lens = lens_files.read(path)
    translators = {
        state: Translator(lens.tensors[f"{state}.weight"], lens.tensors[f"{state}.bias"])
        for state in lens.states
    }
    return TunedLens(translators, lens.n_state, lens.about)


def refuse_other(store: Store, lens: TunedLens) -> None:
    """Refuse a lens of another shape than the store's model.

    Raises:
        ArgumentError: another width, or another number of states, or a store that has neither.
    """
    model = store.model
    if model.get("n_layer") is None or model.get("d_model") is None:
        message = (
            f"{store.path} does not say how many blocks its model has and how wide it is, so that "
            "no lens fits it: it was imported, and lenses are of captured models"
        )
        raise ArgumentError(message)
    has = (int(model["n_layer"]) + 1, int(model["d_model"]))
    if (lens.n_state, lens.d_model) != has:
        message = (
            f"the lens is of {lens.n_state} states that are {lens.d_model} wide, the model of "
            f"{store.path} has {has[0]} that are {has[1]} wide"
        )
        raise ArgumentError(message)
