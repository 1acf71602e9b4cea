"""How others patch a pair of prompts: full passes by hooks, TransformerLens, nnsight.

Cells are (layer, token) of the residual stream or (layer, head) of z; each gives a logit
difference at the last token.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GPT2LMHeadModel

A, B = 10, 20
"""Tokens of the metric: the logit of one less that of the other."""
Cells = list[tuple[int, int]]


class Passes:
    """Full passes of a model, patched by hooks."""

    def __init__(self, model: Any, ids: torch.Tensor) -> None:  # noqa: ANN401
        """Run the clean prompt once and keep what it did; `ids` are both prompts, `[2, token]`."""
        self.model, self.ids = model, ids
        gpt2 = isinstance(model, GPT2LMHeadModel)
        self.blocks = model.transformer.h if gpt2 else model.gpt_neox.layers
        self.project = "attn.c_proj" if gpt2 else "attention.dense"
        self.stream: list[torch.Tensor] = []
        self.z: list[torch.Tensor] = []
        handles = []
        for block in self.blocks:
            handles.append(block.register_forward_pre_hook(lambda _m, a: self.stream.append(a[0])))
            projection = block.get_submodule(self.project)
            handles.append(projection.register_forward_pre_hook(lambda _m, a: self.z.append(a[0])))
        with torch.no_grad():
            model(self.ids[:1], use_cache=False)
        for handle in handles:
            handle.remove()

    @torch.no_grad()
    def run(self, n: int, module: Any, change: Callable[[torch.Tensor], None]) -> NDArray[Any]:  # noqa: ANN401
        """The metric of `n` copies of the corrupted prompt, one module's input changed."""

        def hook(_module: object, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            x = args[0].clone()
            change(x)
            return (x, *args[1:])

        handle = module.register_forward_pre_hook(hook)
        logits = self.model(self.ids[1:].expand(n, -1), use_cache=False).logits[:, -1]
        handle.remove()
        return np.asarray(logits[:, A] - logits[:, B])

    def residual(self, cells: Cells, *, batched: bool) -> NDArray[Any]:
        """Cells of (layer, token), one by one or all tokens of a layer in one batch."""
        out = []
        for layer, token in cells:
            block, clean = self.blocks[layer], self.stream[layer]
            if not batched:

                def one(x: torch.Tensor, token: int = token, clean: Any = clean) -> None:  # noqa: ANN401
                    x[0, token] = clean[0, token]

                out.append(self.run(1, block, one))
        if batched:
            for layer in dict.fromkeys(layer for layer, _ in cells):
                clean = self.stream[layer]

                def every(x: torch.Tensor, clean: Any = clean) -> None:  # noqa: ANN401
                    place = torch.arange(len(x))
                    x[place, place] = clean[0]

                out.append(self.run(self.ids.shape[1], self.blocks[layer], every))
        return np.concatenate(out)

    def heads(self, cells: Cells) -> NDArray[Any]:
        """Cells of (layer, head), one by one."""
        out = []
        for layer, head in cells:
            mine = slice(64 * head, 64 * head + 64)

            def one(x: torch.Tensor, mine: slice = mine, layer: int = layer) -> None:
                x[..., mine] = self.z[layer][..., mine]

            out.append(self.run(1, self.blocks[layer].get_submodule(self.project), one))
        return np.concatenate(out)


@contextmanager
def lens_of(model: Any, tokenizer: Any) -> Iterator[Any]:  # noqa: ANN401
    """TransformerLens' bridge over a model."""
    from transformer_lens.model_bridge import TransformerBridge

    name = "gpt2" if isinstance(model, GPT2LMHeadModel) else "EleutherAI/pythia-160m"
    yield TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=tokenizer)


def transformer_lens(bridge: Any, ids: torch.Tensor) -> dict[str, Callable[[Cells], NDArray[Any]]]:  # noqa: ANN401
    """`generic_activation_patch` over chosen cells, as `get_act_patch_*` calls it."""
    import pandas as pd  # type: ignore[import-untyped]
    from transformer_lens import patching

    with torch.no_grad():
        _, cache = bridge.run_with_cache(ids[:1])

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, A] - logits[0, -1, B]

    def over(cells: Cells, setter: Any, site: str, names: list[str]) -> NDArray[Any]:  # noqa: ANN401
        index = pd.DataFrame(cells, columns=names)
        with torch.no_grad():
            found = patching.generic_activation_patch(
                bridge, ids[1:], cache, metric, setter, site, index_df=index
            )
        return np.asarray(found)

    return {
        "residual": lambda cells: over(
            cells, patching.layer_pos_patch_setter, "resid_pre", ["layer", "pos"]
        ),
        "heads": lambda cells: over(
            cells, patching.layer_head_vector_patch_setter, "z", ["layer", "head"]
        ),
    }


class NNsight:
    """The residual stream patched in nnsight's traces."""

    def __init__(self, model: Any, ids: torch.Tensor) -> None:  # noqa: ANN401
        """Trace the clean prompt once and keep what entered the blocks."""
        from nnsight import NNsight as Wrapped

        self.model, self.ids = Wrapped(model), ids
        gpt2 = isinstance(model, GPT2LMHeadModel)
        self.blocks = self.model.transformer.h if gpt2 else self.model.gpt_neox.layers
        self.head = self.model.lm_head
        kept = {}
        with torch.no_grad(), self.model.trace(input_ids=ids[:1], use_cache=False):
            for layer, block in enumerate(self.blocks):
                kept[layer] = block.input.save()
        self.stream = kept

    @torch.no_grad()
    def one_by_one(self, cells: Cells) -> NDArray[Any]:
        """A trace for each cell."""
        out = []
        for layer, token in cells:
            with self.model.trace(input_ids=self.ids[1:], use_cache=False):
                self.blocks[layer].input[:, token] = self.stream[layer][:, token]
                logits = self.head.output[:, -1].save()
            out.append(float(logits[0, A] - logits[0, B]))
        return np.array(out)

    @torch.no_grad()
    def batched(self, cells: Cells) -> NDArray[Any]:
        """All tokens of a layer in one batch of copies."""
        out = []
        n = self.ids.shape[1]
        place = torch.arange(n)
        for layer in dict.fromkeys(layer for layer, _ in cells):
            with self.model.trace(input_ids=self.ids[1:].expand(n, -1), use_cache=False):
                self.blocks[layer].input[place, place] = self.stream[layer][0]
                logits = self.head.output[:, -1].save()
            out.append((logits[:, A] - logits[:, B]).numpy())
        return np.concatenate(out)
