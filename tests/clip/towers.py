"""Random CLIPs, pictures, and what a pass in 64-bit does, term by term, by torch's own hooks."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import tiny_models
import torch
import transformers as tf

import residuum

N_LAYER, N_HEAD, D_HEAD, N_TOKEN, D_EMBED = 3, 5, 7, 10, 11
ALL = ["z", "mlp_out", "embed", "resid_final", "pattern", "image_v"]
FIRST = {"positions": "first", "dtype": "float32", "device": "cpu"}


def build(name: str, act: str = "quick_gelu") -> Any:
    """A tower whose weights, biases and gains are all random, in 32-bit."""
    class_name, config = tiny_models.MODELS[name]()
    getattr(config, "vision_config", config).hidden_act = act
    torch.manual_seed(0)
    model = getattr(tf, class_name)._from_config(config)
    tiny_models.randomise(model)
    return model.float().eval()


def processor() -> Any:
    size = {"height": 12, "width": 12}
    return tf.CLIPImageProcessorPil(size={"shortest_edge": 12}, crop_size=size)


def pictures(n: int = 6, seed: int = 0) -> list[Any]:
    """Noise; the last one is the second again."""
    rng = np.random.default_rng(seed)
    made = [PIL.Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)) for _ in range(n - 1)]
    return [*made, made[1]]


def directions(n: int = 3) -> Any:
    """`[direction, d_embed]`, of no particular length."""
    return np.random.default_rng(9).normal(size=(n, D_EMBED)).astype(np.float32)


def capture(model: Any, some: list[Any], out: Any, sites: list[str] | None, **more: Any) -> Any:
    return residuum.capture((model, processor()), some, out, sites=sites, **FIRST | more)


@dataclass(frozen=True)
class Pass:
    """What a pass did, float64; of class tokens where no token axis is named.

    Attributes:
        vector: `[image, d_embed]`, what the model returns.
        stream: `[image, d_model]`, what its final norm reads.
        embedding: `[image, d_model]`.
        z, v: `[layer, image, head, d_head]`, `[layer, image, token, head, d_head]`.
        mlp: `[layer, image, d_model]`.
        pattern: `[layer, image, head, token]`.
    """

    vector: Any
    stream: Any
    embedding: Any
    z: Any
    v: Any
    mlp: Any
    pattern: Any


def run(model: Any, some: list[Any]) -> Pass:
    """One pass of a copy of the model in 64-bit, by hooks."""
    wide = copy.deepcopy(model).double()
    tower = wide.vision_model
    tower.set_attn_implementation("eager")
    seen: dict[str, list[Any]] = {"z": [], "v": [], "mlp": [], "pattern": [], "ends": []}
    hooks = [tower.pre_layrnorm.register_forward_hook(lambda _m, _a, o: seen["ends"].append(o))]
    for block in tower.encoder.layers:
        attention = block.self_attn
        hooks += [
            attention.out_proj.register_forward_pre_hook(lambda _m, a: seen["z"].append(a[0])),
            attention.v_proj.register_forward_hook(lambda _m, _a, o: seen["v"].append(o)),
            attention.register_forward_hook(lambda _m, _a, o: seen["pattern"].append(o[1])),
            block.mlp.register_forward_hook(lambda _m, _a, o: seen["mlp"].append(o)),
        ]
    hooks.append(tower.post_layernorm.register_forward_pre_hook(lambda _m, a: stream.append(a[0])))
    stream: list[Any] = []
    pixels = processor()(some, return_tensors="pt").pixel_values.double()
    with tiny_models.in_64_bit(), torch.no_grad():
        if hasattr(wide, "text_model"):
            vector = wide.get_image_features(pixels).pooler_output
        else:
            vector = wide(pixels).image_embeds
    for hook in hooks:
        hook.remove()
    n = len(some)
    z, v, mlp, pattern = (torch.stack(seen[name]).numpy() for name in ("z", "v", "mlp", "pattern"))
    return Pass(
        vector.numpy(),
        stream[0].numpy().reshape(n, -1),
        seen["ends"][0].numpy()[:, 0],
        z[:, :, 0].reshape(N_LAYER, n, N_HEAD, D_HEAD),
        v.reshape(N_LAYER, n, N_TOKEN, N_HEAD, D_HEAD),
        mlp[:, :, 0],
        pattern[:, :, :, 0],
    )


@dataclass(frozen=True)
class Weights:
    """Of a model, float64, by its own names and shapes.

    Attributes:
        w_o: `[layer, head, d_head, d_model]`.
        b_o: `[layer, d_model]`.
        gain, shift: `[d_model]`.
        eps: of the final norm.
        projection: `[d_model, d_embed]`.
    """

    w_o: Any
    b_o: Any
    gain: Any
    shift: Any
    eps: float
    projection: Any


def weights(model: Any) -> Weights:
    tower = model.vision_model
    out = [block.self_attn.out_proj for block in tower.encoder.layers]
    norm = tower.post_layernorm
    return Weights(
        np.stack([_wide(o.weight).T.reshape(N_HEAD, D_HEAD, -1) for o in out]),
        np.stack([_wide(o.bias) for o in out]),
        _wide(norm.weight),
        _wide(norm.bias),
        norm.eps,
        _wide(model.visual_projection.weight).T,
    )


def _wide(weight: Any) -> Any:
    return weight.detach().double().numpy()
