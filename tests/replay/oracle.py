"""The oracle of every replay: a full pass of the unmodified model, with hooks that edit."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from tiny_models import KIND, build, examples
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from residuum.capture.adapters import adapter_for
from residuum.capture.facts import model_facts
from residuum.capture.tracer import Tracer
from residuum.replay.architecture import of_facts
from residuum.replay.edit import Edit
from residuum.replay.weights import Weights
from residuum.sites import RowSpace, Site


class Captured:
    """A tiny model, what it did on some examples, and what replay needs to know of it."""

    def __init__(
        self, name: str, dtype: torch.dtype = torch.float64, inputs: list[Any] | None = None
    ) -> None:
        self.model = build(name, dtype, attention="eager")
        self.adapter = adapter_for(type(self.model).__name__, KIND.get(name, "text"))
        sites = [
            site
            for site in self.adapter.sites(self.model)
            if site.row_space is RowSpace.TOKEN and site is not Site.LOGITS
        ]
        self.tracer = Tracer(self.model, self.adapter, sites)
        self.examples = examples(name) if inputs is None else inputs
        self.stored: dict[tuple[Site, int | None], list[np.ndarray]] = {}
        self.lengths = []
        for example in self.examples:
            batch = self.tracer.collate([example])
            self.lengths.append(batch.lengths[0])
            self.tracer.run(batch, self._keep)
        self.first_row = np.cumsum([0, *self.lengths])
        facts = model_facts(self.model, self.adapter, name=name, revision=None, weights_hash="none")
        self.of = of_facts(facts, name)
        state = {k: v.detach().numpy() for k, v in self.model.state_dict().items()}
        self.weights = Weights({k: (lambda v=v: v) for k, v in state.items()}, self.of)

    def _keep(self, site: Site, layer: int | None, tensor: torch.Tensor) -> None:
        self.stored.setdefault((site, layer), []).append(tensor[0].numpy().copy())

    def at(self, site: Site, layer: int | None, example: int) -> np.ndarray:
        """What is stored of one example, `[token, ...]`."""
        return self.stored[site, layer][example]

    def read(self, site: Site, layer: int, rows: np.ndarray) -> np.ndarray:
        """What is stored, by row."""
        return np.concatenate(self.stored[site, layer])[rows]

    def has(self, site: Site, layer: int) -> bool:
        """Whether it is stored; some only of some layers, so that both ways are tried."""
        of = {Site.Z: (1, 2), Site.K: (0, 1), Site.V: (0, 2)}
        return layer in of.get(site, (layer,))

    def with_edits(
        self, example: int, edits: list[Edit], reads: list[tuple[Site, int]]
    ) -> dict[tuple[Site, int], np.ndarray]:
        """Run the model on an example with edits; what it passed then, `[token, ...]`."""
        found: dict[tuple[Site, int], np.ndarray] = {}
        wanted = {site for site, _ in reads}
        tracer = Tracer(self.model, self.adapter, wanted)
        batch = tracer.collate([self.examples[example]])
        with edited(self, example, edits):
            tracer.run(
                batch,
                lambda site, layer, x: found.__setitem__((site, layer), x[0].numpy().copy()),
            )
        return {read: found[read] for read in reads}


def change(edit: Edit, values: torch.Tensor) -> torch.Tensor:
    """An edit of `[token, ...]`, in the plainest words."""
    out = values.clone()
    for i, token in enumerate(edit.tokens):
        heads = [None] if values.dim() == 2 else edit.heads
        if heads is None:
            heads = range(values.shape[1])
        for j, head in enumerate(heads):
            at = (token,) if head is None else (token, head)
            x = values[at]
            if edit.off is not None:
                for direction in torch.from_numpy(edit.off):
                    x = x - (values[at] @ direction) * direction
            else:
                x = x * edit.scale
            if edit.shift is not None:
                add = edit.shift[i] if head is None else edit.shift[i, j]
                x = x + torch.from_numpy(np.array(add))
            out[at] = x
    return out


@contextmanager
def edited(captured: Captured, example: int, edits: list[Edit]) -> Iterator[None]:
    """Hooks that make edits in a pass over one example."""
    model, adapter = captured.model, captured.adapter
    blocks = adapter.block_list(model)
    with ExitStack() as stack:
        # Added to what a module gives in the order in which a block passes the sites.
        patterns: dict[torch.nn.Module, list[Edit]] = {}
        turned: dict[torch.nn.Module, list[Edit]] = {}
        for layer, block in enumerate(blocks):
            mine = [edit for edit in edits if edit.layer == layer and edit.turn is None]
            attention = block.get_submodule(adapter.attention)
            for edit in edits:
                if edit.layer == layer and edit.turn is not None:
                    turned.setdefault(attention, []).append(edit)
            for edit in mine:
                if edit.site is Site.PATTERN:
                    patterns.setdefault(attention, []).append(edit)
            _hook(captured, block, mine, stack)
        if patterns or turned:
            stack.enter_context(_attention(captured, patterns, turned))
        yield


def _hook(captured: Captured, block: Any, edits: list[Edit], stack: ExitStack) -> None:
    adapter, dims = captured.adapter, captured.tracer.dims
    by: dict[Site, list[Edit]] = {}
    for edit in edits:
        by.setdefault(edit.site, []).append(edit)
    entering: list[torch.Tensor] = []

    def through(site: Site, x: torch.Tensor) -> torch.Tensor:
        """Edits of one site on `[1, token, ...]` or `[token, ...]`."""
        flat = x[0] if x.dim() > 2 or "head" in site.axes or "kv_head" in site.axes else x
        for edit in by.get(site, ()):
            flat = change(edit, flat)
        return flat.view(x.shape)

    def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        x = through(Site.RESID_PRE, x)
        entering[:] = [x]
        return ((x, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": x})

    stack.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)

    def output(path: str, change_it: Any) -> None:
        def after(_module: Any, _args: Any, out: Any) -> Any:
            if isinstance(out, tuple):
                return (change_it(out[0]), *out[1:])
            return change_it(out)

        stack.callback(block.get_submodule(path).register_forward_hook(after).remove)

    for site, tap in ((Site.Q, adapter.q), (Site.K, adapter.k), (Site.V, adapter.v)):
        if site in by:
            output(tap.module, _part_changer(tap, dims.d_head, lambda x, s=site: through(s, x)))

    def z(_module: Any, args: tuple[Any, ...]) -> Any:
        x = args[0].unflatten(-1, (-1, dims.d_head))
        return (through(Site.Z, x).flatten(-2),)

    if Site.Z in by:
        projection = block.get_submodule(adapter.out_proj)
        stack.callback(projection.register_forward_pre_hook(z).remove)
    mids: list[torch.Tensor] = []
    parallel = adapter.parallel(adapter.config(captured.model))

    def attn_out(x: torch.Tensor) -> torch.Tensor:
        x = through(Site.ATTN_OUT, x)
        if not parallel:
            mid = through(Site.RESID_MID, entering[0] + x)
            mids[:] = [mid]
            x = mid - entering[0]
        return x

    if adapter.post_norm:
        output(adapter.norms[0], lambda mid: attn_out(mid - entering[0]) + entering[0])
        output(adapter.norms[1], lambda post: through(Site.MLP_OUT, post - mids[0]) + mids[0])
    else:
        output(adapter.attn_out.module, attn_out)
        output(adapter.mlp_out.module, lambda x: through(Site.MLP_OUT, x))
    output("", lambda x: through(Site.RESID_POST, x))


def _part_changer(tap: Any, d_head: int, change_it: Any) -> Any:
    def changed(x: torch.Tensor) -> torch.Tensor:
        if tap.part is None:
            return change_it(x.unflatten(-1, (-1, d_head))).flatten(-2)
        if tap.fused == "heads":
            by = x.unflatten(-1, (-1, 3, d_head)).clone()
            by[..., tap.part, :] = change_it(by[..., tap.part, :])
            return by.flatten(-3)
        parts = list(x.chunk(3, -1))
        parts[tap.part] = change_it(parts[tap.part].unflatten(-1, (-1, d_head))).flatten(-2)
        return torch.cat(parts, -1)

    return changed


@contextmanager
def _attention(
    captured: Captured, patterns: dict[Any, list[Edit]], turned: dict[Any, list[Edit]]
) -> Iterator[None]:
    """Eager attention with its keys turned, and its weights changed before they mix the values."""
    of = captured.of
    if captured.adapter.attends is not None:
        for module in patterns.keys() | turned.keys():
            own = module._attn

            def attend(q: Any, k: Any, v: Any, mask: Any = None, own: Any = own, at: Any = module):
                _, weights = own(q, _turned(k, turned.get(at, ()), of), v, mask)
                weights = _changed_pattern(weights, patterns.get(at, ()))
                return weights @ v, weights

            module.__dict__["_attn"] = attend
        try:
            yield
        finally:
            for module in patterns.keys() | turned.keys():
                module.__dict__.pop("_attn")
        return

    def attention(module: Any, q: Any, k: Any, v: Any, mask: Any, **kwargs: Any) -> Any:
        eager = sys.modules[type(module).__module__].eager_attention_forward
        k = _turned(k, turned.get(module, ()), of)
        out, weights = eager(module, q, k, v, mask, **kwargs)
        if module not in patterns:
            return out, weights
        weights = _changed_pattern(weights, patterns[module])
        values = v.repeat_interleave(weights.shape[1] // v.shape[1], dim=1)
        return (weights @ values).transpose(1, 2).contiguous(), weights

    ALL_ATTENTION_FUNCTIONS["eager"] = attention
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["eager"]


def _turned(k: torch.Tensor, edits: Any, of: Any) -> torch.Tensor:
    """Rotated keys `[1, head, token, d_head]`, rotated further: pairs as complex numbers."""
    if not edits:
        return k
    k = k.clone()
    n = len(of.rotary.inv_freq)
    pairs = [(2 * i, 2 * i + 1) if of.rotary.interleaved else (i, n + i) for i in range(n)]
    for edit in edits:
        for token, steps in zip(edit.tokens, edit.turn, strict=True):
            for (a, b), angle in zip(pairs, of.rotary.inv_freq, strict=True):
                turn = np.exp(1j * float(angle) * float(steps))
                z = torch.complex(k[0, :, token, a], k[0, :, token, b]) * turn
                k[0, :, token, a], k[0, :, token, b] = z.real, z.imag
    return k


def _changed_pattern(weights: torch.Tensor, edits: list[Edit]) -> torch.Tensor:
    by_query = weights[0].transpose(0, 1)  # [query, head, key]
    for edit in edits:
        by_query = change(edit, by_query)
    return by_query.transpose(0, 1)[None]
