"""A block's parts in Rust, over packed rows, on the CPU, in float32.

Weights stay in the mapped file, in 16 bits too, which are widened as they are used. Only where the
model is small, matrices that lie `[out, in]` are turned round once: products read those faster.

    RustKit ──▶ _residuum.replay_{gather, linear, rotate}, ReplayAttention ──▶ rust/core/src/replay
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum._residuum import Norm as RustNorm
from residuum._residuum import ReplayAttention, replay_gather, replay_linear, replay_rotate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from residuum.replay.architecture import Architecture
    from residuum.replay.kit import Change, Keys, Look, Queries, Seen
    from residuum.replay.weights import Block, Linear, Norm, Weights

    Floats = NDArray[np.float32]

_CACHED = np.uint32(2**32 - 1)
_ROOM = 2 << 30
"""Bytes of a model's blocks up to which matrices are turned round in memory."""


class RustKit:
    """Computes for one model; see `kit.Kit`."""

    def __init__(self, of: Architecture, weights: Weights) -> None:
        """Weights are looked up when a layer is first computed."""
        self.of = of
        self.weights = weights
        self._blocks: dict[int, RustBlock] = {}

    def array(self, values: NDArray[Any]) -> Floats:
        """In float32."""
        return np.ascontiguousarray(values, np.float32)

    def gathered(self, first: Floats, second: Floats, rows: NDArray[np.int64]) -> Floats:
        """Rows of two arrays, counted through both."""
        out = np.empty((len(rows), first.shape[1]), np.float32)
        replay_gather(first, second, rows, out)
        return out

    def index(self, rows: NDArray[Any]) -> NDArray[Any]:
        """As they are."""
        return rows

    def numpy(self, x: Floats) -> Floats:
        """As they are."""
        return x

    def block(self, layer: int) -> RustBlock:
        """One block's weights."""
        if layer not in self._blocks:
            self._blocks[layer] = RustBlock(self.weights.block(layer), self.of)
        return self._blocks[layer]

    def rotated(self, x: Floats, tokens: NDArray[np.int64]) -> Floats:
        """`[row, head, d_head]`, rotated by the position of each row where the model rotates."""
        rotary = self.of.rotary
        if rotary is None or not len(x):
            return x
        x = np.array(x)
        replay_rotate(
            x,
            np.ascontiguousarray(tokens),
            rotary.inv_freq,
            scaling=rotary.attention_scaling,
            interleaved=rotary.interleaved,
        )
        return x

    def attend(
        self,
        queries: Queries,
        cached: Keys,
        own: Keys,
        seen: Seen,
        look: Look,
        change: Change | None,
    ) -> Floats:
        """Pattern-weighted values: z, `[row, head, d_head]`."""
        n_token = seen.own.shape[1]
        attention = self._attention(queries, seen, look)
        q = np.ascontiguousarray(queries.q)
        keys = ((cached.k, cached.v), (own.k, own.v))
        z = np.empty_like(q)
        if change is None:
            attention.attend(q, *keys, z)
            return z
        pattern = np.empty((len(q), self.of.n_head, n_token), np.float32)
        attention.pattern(q, *keys, pattern)
        attention.mix(change(pattern, np.arange(len(q))), *keys, z)
        return z

    def _attention(self, queries: Queries, seen: Seen, look: Look) -> ReplayAttention:
        numbers = np.full(seen.own.shape, _CACHED, np.uint32)
        numbers[seen.own_run, seen.own_token] = np.arange(len(seen.own_run), dtype=np.uint32)
        of = self.of
        return ReplayAttention(
            (of.n_head, of.n_kv_head, of.d_head),
            scaling=look.scaling,
            softcap=look.softcap,
            window=look.window,
            causal=look.causal,
            run=queries.run.astype(np.uint32),
            token=queries.token.astype(np.uint32),
            example=seen.example.astype(np.uint32),
            start=seen.start.astype(np.uint32),
            own=numbers.reshape(-1),
            n_token=seen.own.shape[1],
        )


class RustLinear:
    """`x @ w + b`."""

    def __init__(self, linear: Linear, *, turn: bool) -> None:
        """Take the weights as they lie, or in one piece; `turn` them to `[in, out]`."""
        w = linear.w
        self.brain = w.dtype.name == "bfloat16"
        if w.dtype.itemsize == 2:
            w = w.view(np.uint16)
        elif w.dtype != np.float32:
            w = w.astype(np.float32)
        turned = bool(w.flags.f_contiguous and not w.flags.c_contiguous)
        self.transposed = turned and (w.dtype != np.float32 or not turn)
        self.w = np.require(w.T if self.transposed else w, requirements=["C", "A"])
        self.b = None if linear.b is None else _floats(linear.b)
        self.d_out = linear.w.shape[1]

    def __call__(self, x: Floats, onto: Floats | None = None) -> Floats:
        """`[row, in]` -> `[row, out]`, added to `onto` in place where it is given."""
        return self.put(x, None if onto is None else "add", onto)

    def put(self, x: Floats, then: str | None, out: Floats | None = None) -> Floats:
        """Into `out`, or a new array: through an activation, or as a factor or term of `out`."""
        if out is None:
            out = np.empty((len(x), self.d_out), np.float32)
        x = np.ascontiguousarray(x)
        replay_linear(
            x, self.w, self.b, out, transposed=self.transposed, brain=self.brain, then=then
        )
        return out


class RustBlock:
    """The parts of one block; the names are those of `weights.Block`."""

    def __init__(self, block: Block, of: Architecture) -> None:
        """Take its weights."""
        self._norms = [_norm(norm, of) for norm in block.norms]
        self._branch_norms = [_norm(norm, of) for norm in block.branch_norms]
        self.n_norm, self.has_branch_norms = len(self._norms), bool(self._branch_norms)
        every = (block.q, block.k, block.v, block.out, block.mlp_in, block.mlp_up, block.mlp_out)
        size = sum(4 * one.w.size for one in every if one is not None) * of.n_layer
        linear = partial(RustLinear, turn=size <= _ROOM)
        self.q, self.k, self.v = map(linear, (block.q, block.k, block.v))
        self.out = linear(block.out)
        self._mlp_in, self._mlp_out = linear(block.mlp_in), linear(block.mlp_out)
        self._mlp_up = None if block.mlp_up is None else linear(block.mlp_up)
        self._activation = of.activation

    def norm(self, number: int, x: Floats) -> Floats:
        """Of attention (0) or of the MLP (1)."""
        return _normed(self._norms[number], x)

    def branch_norm(self, number: int, x: Floats) -> Floats:
        """Of what attention (0) or the MLP (1) gives."""
        return _normed(self._branch_norms[number], x)

    def mlp(self, x: Floats, onto: Floats | None = None) -> Floats:
        """`[row, d_model]` -> what the MLP gives, not normed; added to `onto` if it is given."""
        active = self._mlp_in.put(x, self._activation)
        if self._mlp_up is not None:
            self._mlp_up.put(x, "multiply", active)
        return self._mlp_out(active, onto)


def _norm(norm: Norm, of: Architecture) -> RustNorm:
    bias = None if norm.b is None else _floats(norm.b)
    return RustNorm(of.norm, eps=of.eps, offset=of.norm_offset, weight=_floats(norm.w), bias=bias)


def _normed(norm: RustNorm, x: Floats) -> Floats:
    x = np.ascontiguousarray(x)
    out = np.empty_like(x)
    norm.apply(x, out)
    return out


def _floats(values: NDArray[Any]) -> Floats:
    return np.require(values.astype(np.float32), requirements=["C", "A"])
