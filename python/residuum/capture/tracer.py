"""Run a model once and hand over what it computed at the sites asked for.

    Tracer(model, adapter, sites, layers).run(batch, sink)

                    hooks on blocks and their parts ──┐
    model(batch) ──▶                                  ├──▶ sink(site, layer, tensor)
                    the attention function, observed ─┘

The model is not modified: hooks live for one call of `run`, and go also when it fails. The pass
ends as soon as the last site has been delivered, so a capture of early layers costs only those.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from residuum.capture.adapters import Adapter, Difference, Dims, Tap
from residuum.capture.attention import Attention, observe
from residuum.capture.batch import Batch
from residuum.capture.readout import norm_eps
from residuum.errors import CaptureError, SiteError
from residuum.sites import Site

__all__ = ["Batch", "Sink", "SiteShape", "Tracer"]

Sink: TypeAlias = Callable[[Site, int | None, torch.Tensor], None]
"""Takes (site, layer or None, tensor). The tensor is `[example, token, ...]` with the site's axes
behind `layer` in their order, `[example, ...]` for example sites. It may be a view of the model's
memory: it must not be changed, and not be kept beyond the call unless copied."""

_ATTENTION = frozenset({Site.ROT_Q, Site.ROT_K, Site.ATTN_SCORES, Site.PATTERN})


@dataclass(frozen=True)
class SiteShape:
    """How one site is stored.

    Attributes:
        n_layer: length of the layer axis, or None for a site without one.
        layers: the layers captured; empty for a site without layer axis.
        inner: lengths of the axes behind `row` and `layer`.
        axes: names of all axes behind `row`.
        dtype: "float32", "float16", "bfloat16" or "float64": what the sink gets.
    """

    n_layer: int | None
    layers: tuple[int, ...]
    inner: tuple[int, ...]
    axes: tuple[str, ...]
    dtype: str


class Tracer:
    """Reads sites of one model.

    Attributes:
        sites: the sites asked for, in the order of the vocabulary.
        layers: the layers asked for, ascending; `layers_of` those of each site.
        dims: lengths of the model's axes.
        available: the sites that the model has.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: Adapter,
        sites: Iterable[Site | str],
        layers: Iterable[int] | Mapping[Site, Iterable[int]] | None = None,
    ) -> None:
        """Plan a capture.

        Args:
            model: a transformers model whose class `adapter` knows.
            adapter: where the sites of the model's family are.
            sites: what to read.
            layers: of which blocks, counted from 0, for all sites or for each; all by default.
                Sites without layer axis are unaffected.

        Raises:
            SiteError: a site that does not exist or that this model does not have, or a layer
                beyond the model's.
        """
        self.model = model
        self.adapter = adapter
        self.dims: Dims = adapter.dims(model)
        self.available: tuple[Site, ...] = tuple(adapter.sites(model))
        wanted = {Site.parse(site) for site in sites}
        self._check_sites(wanted)
        self.sites: tuple[Site, ...] = tuple(site for site in Site if site in wanted)
        self.layers_of: dict[Site, tuple[int, ...]] = self._layers_of(layers)
        self.layers: tuple[int, ...] = tuple(
            sorted({n for of in self.layers_of.values() for n in of})
        )

    def _check_sites(self, wanted: set[Site]) -> None:
        if not wanted:
            message = "no site was asked for"
            raise SiteError(message)
        missing = self.adapter.missing(self.model)
        for site in Site:
            if site in wanted and site in missing:
                listed = ", ".join(self.available)
                message = (
                    f"{type(self.model).__name__} has no {site}: {missing[site]}. Its sites are "
                    f"{listed}"
                )
                raise SiteError(message)

    def _layers_of(
        self, layers: Iterable[int] | Mapping[Site, Iterable[int]] | None
    ) -> dict[Site, tuple[int, ...]]:
        layered = [site for site in self.sites if site.has_layers]
        if isinstance(layers, Mapping):
            return {site: self._check_layers(layers[site]) for site in layered}
        chosen = self._check_layers(layers)
        return dict.fromkeys(layered, chosen)

    def _check_layers(self, layers: Iterable[int] | None) -> tuple[int, ...]:
        n_layer = self.dims.n_layer
        if layers is None:
            return tuple(range(n_layer))
        chosen = tuple(sorted(set(layers)))
        outside = [layer for layer in chosen if not 0 <= layer < n_layer]
        if outside:
            message = f"layer {outside[0]} is not in the model: its layers are 0 to {n_layer - 1}"
            raise SiteError(message)
        if not chosen and any(site.has_layers for site in self.sites):
            message = "no layer was asked for, but a site with a layer axis was"
            raise SiteError(message)
        return chosen

    def part(self, wanted: Mapping[Site, Iterable[int]]) -> "Tracer":
        """Return a tracer of some of this one's sites and layers, or of none."""
        one = copy(self)
        one.sites = tuple(site for site in self.sites if site in wanted)
        one.layers_of = {site: tuple(wanted[site]) for site in one.sites if site.has_layers}
        one.layers = tuple(sorted({n for of in one.layers_of.values() for n in of}))
        return one

    def collate(self, examples: Sequence[Any]) -> Batch:
        """Make a batch of examples.

        Args:
            examples: token ids of each example, or for image models float tensors
                `[channel, height, width]`.
        """
        if self.adapter.kind == "image":
            return Batch(
                (self.dims.context,) * len(examples), pixel_values=torch.stack([*examples])
            )
        return Batch.text(examples, pad_id=self.pad_id)

    @property
    def pad_id(self) -> int:
        """The token id to pad with: the model's own, or 0 (masked either way)."""
        pad = getattr(self.adapter.config(self.model), "pad_token_id", None)
        return 0 if pad is None else int(pad)

    def shapes(self, n_key: int) -> dict[Site, SiteShape]:
        """Return how each site asked for is stored.

        Args:
            n_key: length of the key axis of attn_scores and pattern: the longest example's.
        """
        lengths = {**vars(self.dims), "head": self.dims.n_head, "kv_head": self.dims.n_kv_head}
        lengths |= {"key": n_key, "norm": len(self.adapter.norms), "token": self.dims.context}
        return {site: self._shape(site, lengths) for site in self.sites}

    def _shape(self, site: Site, lengths: dict[str, Any]) -> SiteShape:
        dtype = model_dtype(self.model)
        if site is Site.NORM_SCALE:
            dtype = torch.promote_types(dtype, torch.float32)
        return SiteShape(
            n_layer=self.dims.n_layer if site.has_layers else None,
            layers=self.layers_of.get(site, ()),
            inner=tuple(int(lengths[axis]) for axis in site.axes if axis != "layer"),
            axes=site.axes,
            dtype=str(dtype).removeprefix("torch."),
        )

    def run(self, batch: Batch, sink: Sink) -> None:
        """Run the model on a batch; call `sink` once per site and layer asked for.

        Raises:
            CaptureError: the model did not pass a site that it should have.
        """
        Pass(self, batch, sink).run()


def model_dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype of the model's activations: that of its first floating parameter."""
    return next(p.dtype for p in model.parameters() if p.is_floating_point())


class _Done(Exception):
    """Ends a forward pass early: everything asked for has been delivered."""


class Pass:
    """One forward pass: its hooks, and what is still to be delivered.

    No site is what is not for the sink.
    """

    def __init__(self, tracer: Tracer, batch: Batch, sink: Sink) -> None:
        self.tracer, self.batch, self.sink = tracer, batch, sink
        self.model, self.adapter = tracer.model, tracer.adapter
        self.body = self.adapter.body(self.model)
        self.blocks = self.adapter.block_list(self.model)
        self.config = self.adapter.config(self.model)
        self.device = next(self.model.parameters()).device
        self.due: set[tuple[Site | None, int | None]] = {
            (site, layer) for site in tracer.sites for layer in tracer.layers_of.get(site, (None,))
        }
        self.hooks = ExitStack()

    def run(self) -> None:
        training = [module for module in self.model.modules() if module.training]
        with torch.no_grad(), self.hooks:
            self.hooks.callback(_set_training, training)
            self.model.eval()
            self.watch()
            with suppress(_Done):
                self.finish(self.forward())
        if self.due:
            site, layer = min(self.due, key=str)
            where = "" if layer is None else f" at layer {layer}"
            message = (
                f"the model ran without passing {site}{where}: its configuration takes another "
                f"path than the adapter {self.adapter.family} describes"
            )
            raise CaptureError(message)

    def forward(self) -> Any:  # noqa: ANN401 - a transformers output; its type differs by family
        """Run the model, without its head unless logits are asked for."""
        device = self.device
        inputs: dict[str, Any] = {}
        if self.batch.pixel_values is not None:
            dtype = model_dtype(self.model)
            inputs["pixel_values"] = self.batch.pixel_values.to(device, dtype)
        elif self.batch.input_ids is not None:
            inputs["input_ids"] = self.batch.input_ids.to(device)
            inputs["attention_mask"] = self.batch.attention_mask.to(device)
            if self.batch.token_type_ids is not None:
                inputs["token_type_ids"] = self.batch.token_type_ids.to(device)
            if self.adapter.causal and self.adapter.pooling is None:
                inputs["use_cache"] = False
        runs = self.model if Site.LOGITS in self.tracer.sites else self.body
        return runs(**inputs)

    def finish(self, output: Any) -> None:  # noqa: ANN401
        """Deliver what only the end of the pass has."""
        if (Site.LOGITS, None) in self.due:
            self.deliver(Site.LOGITS, None, output.logits)
        projection = self.adapter.projection(self.model)
        if (Site.POOLED, None) in self.due and projection is not None:
            self.deliver(Site.POOLED, None, projection(output.pooler_output))

    def deliver(self, site: Site, layer: int | None, tensor: torch.Tensor) -> None:
        """Hand one tensor to the sink and end the pass if it was the last."""
        if (site, layer) not in self.due:
            message = f"{site} at layer {layer} was passed twice in one run of the model"
            raise CaptureError(message)
        self.sink(site, layer, tensor)
        self.settle(site, layer)

    def settle(self, site: Site | None, layer: int | None) -> None:
        """Note that something was delivered and end the pass if it was the last."""
        self.due.discard((site, layer))
        if not self.due:
            raise _Done

    def watch(self) -> None:
        """Install the hooks of every site asked for."""
        for site in self.tracer.sites:
            if site is Site.EMBED:
                self.watch_tap(site, None, self.blocks[0], Tap("", "input"))
            elif site is Site.RESID_FINAL:
                self.watch_tap(site, None, self.blocks[-1], Tap("", "output"))
            elif site is Site.POOLED and self.adapter.pooling == "mean":
                self.listen(self.blocks[-1], "output", self.pool)
            elif site is Site.NORM_SCALE:
                self.watch_norms()
            elif site.has_layers and site not in _ATTENTION:
                self.watch_layers(site)
        self.watch_attention()

    def watch_layers(self, site: Site) -> None:
        where = self.adapter.locate(site, self.config)
        for layer in self.tracer.layers_of[site]:
            if isinstance(where, Difference):
                self.watch_difference(site, layer, self.blocks[layer], where)
            elif where is not None:
                self.watch_tap(site, layer, self.blocks[layer], where)

    def watch_tap(self, site: Site, layer: int | None, block: nn.Module, tap: Tap) -> None:
        def seen(tensor: torch.Tensor) -> None:
            self.deliver(site, layer, self.arranged(site, tap, tensor))

        self.listen(block.get_submodule(tap.module), tap.side, seen)

    def watch_difference(self, site: Site, layer: int, block: nn.Module, where: Difference) -> None:
        earlier: list[torch.Tensor] = []

        def seen(after: torch.Tensor) -> None:
            self.deliver(site, layer, after - earlier.pop())

        self.listen(block.get_submodule(where.before.module), where.before.side, earlier.append)
        self.listen(block.get_submodule(where.after.module), where.after.side, seen)

    def watch_norms(self) -> None:
        for layer in self.tracer.layers_of[Site.NORM_SCALE]:
            scales: list[torch.Tensor] = []
            for path in self.adapter.norms:
                norm = self.blocks[layer].get_submodule(path)
                self.listen(norm, "input", self.norm_watcher(norm, layer, scales))

    def norm_watcher(
        self, norm: nn.Module, layer: int, scales: list[torch.Tensor]
    ) -> Callable[[torch.Tensor], None]:
        def seen(entering: torch.Tensor) -> None:
            scales.append(norm_scale(norm, entering))
            if len(scales) == len(self.adapter.norms):
                self.deliver(Site.NORM_SCALE, layer, torch.stack(scales, -1))

        return seen

    def watch_attention(self) -> None:
        wanted: dict[int, list[Site]] = {}
        for site in self.tracer.sites:
            for layer in self.tracer.layers_of[site] if site in _ATTENTION else ():
                wanted.setdefault(layer, []).append(site)
        watchers = {}
        for layer, sites in wanted.items():
            module = self.blocks[layer].get_submodule(self.adapter.attention)
            watchers[module] = self.attention_watcher(layer, sites)
        implementation = self.config._attn_implementation
        self.hooks.enter_context(observe(implementation, watchers, method=self.adapter.attends))

    def attention_watcher(self, layer: int, wanted: list[Site]) -> Callable[[Attention], None]:
        read: dict[Site, Callable[[Attention], torch.Tensor]] = {
            Site.ROT_Q: lambda call: call.query,
            Site.ROT_K: lambda call: call.key,
            Site.ATTN_SCORES: Attention.scores,
            Site.PATTERN: Attention.pattern,
        }

        def seen(call: Attention) -> None:
            for site in wanted:
                # [example, head, query, ...] -> [example, token, head, ...]
                self.deliver(site, layer, read[site](call).transpose(1, 2))

        return seen

    def listen(self, module: nn.Module, side: str, seen: Callable[[torch.Tensor], None]) -> None:
        """Call `seen` with the module's first input or output for as long as the pass lasts."""

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen(self.by_example(args[0] if args else kwargs["hidden_states"]))

        def after(_module: nn.Module, _args: object, output: Any) -> None:  # noqa: ANN401
            seen(self.by_example(output[0] if isinstance(output, tuple) else output))

        if side == "input":
            handle = module.register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = module.register_forward_hook(after)
        self.hooks.callback(handle.remove)

    def by_example(self, tensor: torch.Tensor) -> torch.Tensor:
        """Give a tensor `[example * token, d]` its two axes back, in families that flatten them."""
        if self.adapter.flattens and tensor.dim() == 2:
            return tensor.view(len(self.batch.lengths), -1, tensor.shape[-1])
        return tensor

    def arranged(self, site: Site, tap: Tap, tensor: torch.Tensor) -> torch.Tensor:
        """Give a tapped tensor the axes of its site."""
        if "d_head" not in site.axes:
            return tensor
        shape = (*tensor.shape[:2], -1, self.tracer.dims.d_head)
        if tap.part is None:
            return tensor.view(shape)
        if tap.fused == "heads":  # [example, token, head * (q | k | v)]
            return tensor.view(*shape[:3], 3 * shape[3]).chunk(3, -1)[tap.part]
        return tensor.chunk(3, -1)[tap.part].view(shape)

    def pool(self, hidden: torch.Tensor) -> None:
        """Deliver the mean over each example's own tokens of `[example, token, d_model]`."""
        wide = torch.promote_types(hidden.dtype, torch.float32)
        mask = self.batch.attention_mask.to(hidden.device, wide)
        total = torch.einsum("bt,btd->bd", mask, hidden.to(wide))
        self.deliver(Site.POOLED, None, (total / mask.sum(1, keepdim=True)).to(hidden.dtype))


def norm_scale(norm: nn.Module, entering: torch.Tensor) -> torch.Tensor:
    """Return the number that a norm divides by, `[...]` for input `[..., d_model]`.

    LayerNorm divides the centred input by it, RMSNorm the input. Computed in float32 or wider.
    """
    wide = entering.to(torch.promote_types(entering.dtype, torch.float32))
    if isinstance(norm, nn.LayerNorm):
        return (wide.var(-1, correction=0) + norm_eps(norm)).sqrt()
    return (wide.square().mean(-1) + norm_eps(norm)).sqrt()


def _set_training(modules: list[nn.Module]) -> None:
    for module in modules:
        module.training = True
