"""How the captured model's blocks compute, as its store says (`capture/blocks.py` writes it)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from residuum.store import Store


@dataclass(frozen=True)
class Rotary:
    """How queries and keys are rotated by their position.

    Attributes:
        inv_freq: float32 `[pair]`, the angle of one step; features beyond the pairs are left.
        attention_scaling: a factor on sine and cosine, which are float32 whatever the dtype.
        interleaved: a pair is two neighbours; otherwise feature i of each half.
    """

    inv_freq: NDArray[np.float32]
    attention_scaling: float
    interleaved: bool


@dataclass(frozen=True)
class Architecture:
    """What a block computes. Lengths and words are those of the vocabulary.

    Attributes:
        norm: "layer_norm" or "rms_norm"; its gain is the weight plus `norm_offset`.
        post_norm: norms come after each sum in place of before each branch (BERT).
        parallel: attention and MLP read the same stream and are added together.
        causal: a query sees no later key.
        activation: "gelu", "gelu_tanh", "gelu_quick", "relu" or "silu".
        scaling: by layer, the factor on query times key.
        window: by layer, how many keys back a query sees, itself included; None for all.
        softcap: bounds the scaled scores, `cap * tanh(scores / cap)`.
        modules: where the weights are, by the names that `capture.blocks` explains.
    """

    n_layer: int
    n_head: int
    n_kv_head: int
    d_model: int
    d_head: int
    d_mlp: int
    norm: str
    norm_offset: float
    eps: float
    post_norm: bool
    parallel: bool
    causal: bool
    activation: str
    scaling: tuple[float, ...]
    window: tuple[int | None, ...]
    softcap: float | None
    rotary: Rotary | None
    modules: Mapping[str, Any]


_LENGTHS = ("n_layer", "n_head", "n_kv_head", "d_model", "d_head", "d_mlp")
_COPIED = ("norm", "norm_offset", "eps", "post_norm", "parallel", "causal", "softcap", "modules")


def architecture(store: Store) -> Architecture:
    """What the model of a store computes.

    Raises:
        StoreError: the store holds no model, or one whose blocks cannot be computed here.
    """
    return of_facts(store.model, str(store.path))


def of_facts(facts: Mapping[str, Any], path: str) -> Architecture:
    """The same of a store's facts about its model; `path` is for errors."""
    blocks = facts.get("blocks")
    if blocks is None:
        message = (
            f"replay needs to know how the model's blocks compute, and {path} does not say: it was "
            "imported, or captured by an earlier version. Capture the model to replay it."
        )
        raise StoreError(message)
    if blocks["activation"] is None:
        message = f"the model in {path} has an activation function that replay does not know"
        raise StoreError(message)
    known: dict[str, Any] = {name: int(facts[name]) for name in _LENGTHS}
    return Architecture(
        **known,
        **{name: blocks[name] for name in _COPIED},
        activation=blocks["activation"],
        scaling=tuple(blocks["scaling"]),
        window=tuple(blocks["window"]),
        rotary=_rotary(blocks["rotary"], path),
    )


def _rotary(facts: Mapping[str, Any] | None, path: str) -> Rotary | None:
    if facts is None:
        return None
    if facts["by_length"]:
        message = (
            f"the model in {path} rotates by angles that depend on the length of its input "
            "(dynamic or longrope): replay does not know them"
        )
        raise StoreError(message)
    return Rotary(
        np.array(facts["inv_freq"], np.float32),
        float(facts["attention_scaling"]),
        bool(facts["interleaved"]),
    )
