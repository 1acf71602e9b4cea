"""Seeing inside a model's attention without changing it.

transformers looks its attention functions up by name in one registry. While `observe` is active,
the entry that the model uses is wrapped: the model's own function runs, on the same arguments, and
its result is handed back untouched; then whoever watches that module sees rotated queries and keys,
scores and pattern. An implementation that computes no pattern (sdpa) stays in place: the pattern is
then computed beside it, from the same queries, keys and mask.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from residuum.errors import CaptureError

AttentionFunction: TypeAlias = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]

READABLE = ("eager", "sdpa")


@dataclass(frozen=True)
class Attention:
    """One call of an attention function.

    Attributes:
        query: after rotation, `[example, head, query, d_head]`.
        key: after rotation, `[example, kv_head, key, d_head]`.
        scaling: factor on query times key.
        visible: which keys a query attends to, bool, broadcasts to `[example, head, query, key]`.
        weights: the pattern, where the model's own function computed one.
        softcap: bounds the scaled scores, `cap * tanh(scores / cap)`.
    """

    query: torch.Tensor
    key: torch.Tensor
    scaling: float
    visible: torch.Tensor
    weights: torch.Tensor | None
    softcap: float | None = None

    def scores(self) -> torch.Tensor:
        """Return scaled scores `[example, head, query, key]`, zero where a query cannot look."""
        return self._raw_scores().masked_fill(~self.visible, 0.0)

    def pattern(self) -> torch.Tensor:
        """Return attention after softmax `[example, head, query, key]`, zero where not visible.

        The softmax is the model's own where it has one. Beside sdpa, which keeps its own hidden, it
        runs in the dtype of the queries but at least in float32, as sdpa's does.
        """
        if self.weights is not None:
            return self.weights
        dtype = torch.promote_types(self.query.dtype, torch.float32)
        scores = self._raw_scores().to(dtype).masked_fill(~self.visible, float("-inf"))
        # A padded query that sees nothing has no softmax; it is never stored, but must not be NaN.
        pattern = scores.softmax(-1).nan_to_num(0.0)
        return pattern.to(self.query.dtype)

    def _raw_scores(self) -> torch.Tensor:
        group = self.query.shape[1] // self.key.shape[1]
        keys = self.key.repeat_interleave(group, dim=1)
        scores = (self.query @ keys.transpose(2, 3)) * self.scaling
        return scores if self.softcap is None else (scores / self.softcap).tanh() * self.softcap


Watcher: TypeAlias = Callable[[Attention], None]


@contextmanager
def observe(
    implementation: str, watchers: Mapping[nn.Module, Watcher], *, method: str | None = None
) -> Iterator[None]:
    """Call a watcher whenever its module attends, until the context ends.

    Args:
        implementation: the name under which the model looks its attention function up.
        watchers: attention module -> what to do with each call. Other modules are unaffected.
        method: the modules' own method that attends, in families that look nothing up.

    Raises:
        CaptureError: the implementation is one that cannot be read (flash, flex).
    """
    if not watchers:
        yield
        return
    if implementation not in READABLE:
        message = (
            f"attention of the implementation {implementation!r} cannot be read: attn_scores, "
            "pattern, rot_q and rot_k need a model with attn_implementation 'sdpa' or 'eager'"
        )
        raise CaptureError(message)
    if method is not None:
        with _methods_watched(method, watchers):
            yield
        return
    # The registry's own mapping is per process; the entry is put back whatever happens.
    local = ALL_ATTENTION_FUNCTIONS._local_mapping
    missing = object()
    before = local.get(implementation, missing)
    shared: AttentionFunction | None = ALL_ATTENTION_FUNCTIONS.get(implementation)
    ALL_ATTENTION_FUNCTIONS[implementation] = _wrapped(implementation, shared, watchers)
    try:
        yield
    finally:
        if before is missing:
            del ALL_ATTENTION_FUNCTIONS[implementation]
        else:
            ALL_ATTENTION_FUNCTIONS[implementation] = before


def _wrapped(
    implementation: str, shared: AttentionFunction | None, watchers: Mapping[nn.Module, Watcher]
) -> AttentionFunction:
    """Return a function that attends as before and shows each call to its module's watcher."""

    def attend(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,  # noqa: ANN401 - handed through as transformers gives them
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        own = shared or _eager_of(module)
        output, weights = own(module, query, key, value, attention_mask, **kwargs)
        watcher = watchers.get(module)
        if watcher is not None:
            causal = implementation != "eager" and _is_causal(module, kwargs)
            visible = _visible(query, key, attention_mask, causal=causal)
            scaling = kwargs.get("scaling")
            scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
            # sdpa knows of no cap.
            cap = kwargs.get("softcap") if implementation == "eager" else None
            watcher(Attention(query, key, scale, visible, weights, cap))
        return output, weights

    return attend


@contextmanager
def _methods_watched(name: str, watchers: Mapping[nn.Module, Watcher]) -> Iterator[None]:
    """Put a method in front of each module's own, which shows its calls to the watcher."""

    def watched(module: nn.Module, watcher: Watcher) -> AttentionFunction:
        own: AttentionFunction = getattr(module, name)

        def attend(
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            attention_mask: torch.Tensor | None = None,
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            output, weights = own(query, key, value, attention_mask)
            visible = _visible(query, key, attention_mask, causal=False)
            watcher(Attention(query, key, query.shape[-1] ** -0.5, visible, weights))
            return output, weights

        return attend

    try:
        for module, watcher in watchers.items():
            module.__dict__[name] = watched(module, watcher)
        yield
    finally:
        for module in watchers:
            module.__dict__.pop(name, None)


def _eager_of(module: nn.Module) -> AttentionFunction:
    """Return the eager attention of the file that defines `module`; it is in no registry."""
    function: AttentionFunction = sys.modules[type(module).__module__].eager_attention_forward
    return function


def _is_causal(module: nn.Module, kwargs: Mapping[str, Any]) -> bool:
    """Say whether sdpa masks by itself when it is given no mask, by the rule it uses."""
    given = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if given is None else given)


def _visible(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, *, causal: bool
) -> torch.Tensor:
    """Return which keys each query attends to, bool, `[example or 1, 1, query, key]`."""
    n_query, n_key = query.shape[2], key.shape[2]
    if mask is None:
        everything = torch.ones(1, 1, n_query, n_key, dtype=torch.bool, device=query.device)
        return everything.tril() if causal and n_query > 1 else everything
    if mask.dtype == torch.bool:
        return mask
    # An additive mask holds 0 for visible keys and the lowest number of its dtype for the others.
    return mask > torch.finfo(mask.dtype).min / 2
