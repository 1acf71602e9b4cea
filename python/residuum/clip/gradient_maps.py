"""Maps from gradients through a loaded CLIP model: what maps of contributions are compared with.

Here the model runs, forwards and backwards; torch is imported when that is asked for. All maps are
float32 `[image, patch]`, patches row by row, the class token left out.

    maps = grad_cam(model, pixel_values, directions=texts[predicted])

The score whose gradient is taken is, for each image, the cosine of its vector in the joint space
with its direction, or with `score="dot"` their product. The model is left as it was found: its
attention implementation, its mode and its weights' gradients.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from residuum.errors import ArgumentError, ModelError
from residuum.replay.numbers import real

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from numpy.typing import ArrayLike, NDArray
    from torch import nn

    Floats = NDArray[np.float32]
    # The attention of some layers and its gradient, `[image, head, query, key]` each.
    Pairs = Sequence[tuple[torch.Tensor, torch.Tensor]]

Score: TypeAlias = Literal["cosine", "dot"]
_SCORES = ("cosine", "dot")


def grad_cam(
    model: nn.Module,
    pixel_values: ArrayLike | torch.Tensor,
    directions: ArrayLike | torch.Tensor,
    *,
    score: Score = "cosine",
    batch: int = 4,
) -> Floats:
    """The last block's attention of the class token, as far as more of it raises the score.

    `relu(gradient * attention)`, mean over heads. (Selvaraju et al. 2017, Grad-CAM, with attention
    in the place of feature maps; the gradient weighs each patch by itself where the paper takes its
    mean over the picture: attention of a head has one entry for each patch, not channels.)

    Args:
        model: a CLIPModel or CLIPVisionModelWithProjection, on any device and in any dtype.
        pixel_values: `[image, channel, height, width]`, as the image processor gives them.
        directions: `[image, d_embed]`, each image's own, such as the text of its class.
        score: whose gradient is taken; maps of the two differ, since the cosine's does not reward
            a longer vector.
        batch: images that run together. The graph of the last block alone is kept.

    Returns:
        float32 `[image, patch]`.

    Raises:
        ModelError: a model of another kind.
        ArgumentError: shapes that do not fit; a score or batch that is none.
    """

    def maps(pairs: Pairs) -> torch.Tensor:
        weights, gradient = pairs[-1]
        return (weights[:, :, 0, 1:] * gradient[:, :, 0, 1:]).clamp(min=0).mean(dim=1)

    return _in_batches(_Tower(model, score), pixel_values, directions, batch, maps, last_only=True)


def transformer_attribution(
    model: nn.Module,
    pixel_values: ArrayLike | torch.Tensor,
    directions: ArrayLike | torch.Tensor,
    *,
    score: Score = "cosine",
    scale: float = 1.0,
    batch: int = 4,
) -> Floats:
    """Attention weighed by gradients, followed through all layers.

    From the first layer to the last `R += mean over heads of relu(gradient * attention) @ R`, from
    `R = I`; the map is the class token's row of R. (Chefer, Gur & Wolf 2021, Generic
    Attention-model Explainability, equations 5 and 6, self-attention alone.)

    Args:
        model: as in `grad_cam`.
        pixel_values: as in `grad_cam`.
        directions: as in `grad_cam`.
        score: whose gradient is taken.
        scale: what the score is multiplied by. The larger, the more paths through several layers
            count; `model.logit_scale.exp()` (about 100) makes it the logit that the authors use.
        batch: images that run together. The graph of all blocks is kept: large models need few.

    Returns:
        float32 `[image, patch]`.

    Raises:
        ModelError: a model of another kind.
        ArgumentError: shapes that do not fit; a score or batch that is none.
    """

    def maps(pairs: Pairs) -> torch.Tensor:
        # From the last layer down, only the class token's row of the product is needed.
        weights = pairs[0][0]
        row = weights.new_zeros(weights.shape[0], 1, weights.shape[-1])
        row[:, :, 0] = 1
        for weights, gradient in reversed(pairs):
            row = row + row @ (weights * (scale * gradient)).clamp(min=0).mean(dim=1)
        return row[:, 0, 1:]

    return _in_batches(_Tower(model, score), pixel_values, directions, batch, maps)


def _in_batches(
    tower: _Tower,
    pixel_values: ArrayLike | torch.Tensor,
    directions: ArrayLike | torch.Tensor,
    batch: int,
    maps: Callable[[Pairs], torch.Tensor],
    *,
    last_only: bool = False,
) -> Floats:
    pixels = tower.tensor("pixel_values", pixel_values, 4)
    targets = tower.tensor("directions", directions, 2)
    if batch < 1:
        message = f"batch is images that run together, 1 at least, not {batch!r}"
        raise ArgumentError(message)
    if targets.shape != (len(pixels), tower.d_embed):
        message = (
            f"directions are [{len(pixels)}, {tower.d_embed}], one for each image, not "
            f"{list(targets.shape)}"
        )
        raise ArgumentError(message)
    found = [np.empty((0, tower.n_patch), np.float32)]
    for at in range(0, len(pixels), batch):
        some = slice(at, at + batch)
        made = maps(tower.attention(pixels[some], targets[some], last_only=last_only))
        found.append(made.float().cpu().numpy())
    return np.concatenate(found)


class _Tower:
    """A vision tower with its projection, and how its images are scored."""

    def __init__(self, model: nn.Module, score: Score) -> None:
        """Find the parts.

        Raises:
            ModelError: they are not there.
            ArgumentError: a score that is none.
        """
        if score not in _SCORES:
            message = f"score is one of {', '.join(_SCORES)}, not {score!r}"
            raise ArgumentError(message)
        if not hasattr(model, "vision_model") or not hasattr(model, "visual_projection"):
            message = (
                f"{type(model).__name__} has no vision tower that ends in a joint space: load "
                "CLIPModel or CLIPVisionModelWithProjection"
            )
            raise ModelError(message)
        self.vision: Any = model.vision_model
        self.projection: Any = model.visual_projection
        self.score = score

    @property
    def d_embed(self) -> int:
        """Width of the joint space."""
        return int(self.projection.weight.shape[0])

    @property
    def n_patch(self) -> int:
        """Patches of an image."""
        return int(self.vision.embeddings.num_patches)

    def tensor(self, name: str, values: ArrayLike | torch.Tensor, n_axis: int) -> torch.Tensor:
        """Numbers in the model's dtype and on its device, outside any graph.

        Raises:
            ArgumentError: no numbers, or another count of axes.
        """
        import torch

        weight = self.projection.weight
        given = values if isinstance(values, torch.Tensor) else torch.tensor(real(name, values))
        if given.ndim != n_axis:
            message = f"`{name}` has {given.ndim} axes, {list(given.shape)}, but needs {n_axis}"
            raise ArgumentError(message)
        return given.detach().to(weight.device, weight.dtype)

    def attention(self, pixels: torch.Tensor, targets: torch.Tensor, *, last_only: bool) -> Pairs:
        """What the layers attend to, or the last alone, and the gradients of the score."""
        import torch

        blocks = list(self.vision.encoder.layers)
        first = len(blocks) - 1 if last_only else 0
        seen: list[torch.Tensor] = []

        def enter(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            # Below this block no gradient is asked for: the graph begins here, of a new leaf.
            torch.set_grad_enabled(True)
            return (args[0].detach().requires_grad_(), *args[1:])

        def attended(_module: nn.Module, _args: object, output: tuple[Any, ...]) -> None:
            seen.append(output[1])

        hooks = [blocks[first].register_forward_pre_hook(enter)]
        hooks += [block.self_attn.register_forward_hook(attended) for block in blocks[first:]]
        try:
            # `no_grad` puts back, at its end, what `enter` switches on within. A tensor made in
            # inference mode may not take part in a gradient; its copy may.
            with torch.inference_mode(mode=False), torch.no_grad(), _eager(self.vision):
                total = self._scores(pixels, targets.clone()).sum()
                gradients = torch.autograd.grad(total, seen)
        finally:
            for hook in hooks:
                hook.remove()
        return [(weights.detach(), grad) for weights, grad in zip(seen, gradients, strict=True)]

    def _scores(self, pixels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """`[image]`; an image's depends on itself alone, so that a sum's gradient is each one's."""
        import torch

        vectors: torch.Tensor = self.projection(self.vision(pixel_values=pixels).pooler_output)
        if self.score == "dot":
            return (vectors * targets).sum(-1)
        return torch.nn.functional.cosine_similarity(vectors, targets, dim=-1)


@contextmanager
def _eager(vision: nn.Module) -> Iterator[None]:
    """Let a tower attend by the implementation that has weights, without dropout, for a while."""
    modules: list[Any] = list(vision.modules())
    configs = {id(one.config): one.config for one in modules if hasattr(one, "config")}
    before = [(config, config._attn_implementation) for config in configs.values()]
    training = [module for module in modules if module.training]
    try:
        for config, _ in before:
            config._attn_implementation = "eager"
        for module in training:
            module.training = False
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation
        for module in training:
            module.training = True
