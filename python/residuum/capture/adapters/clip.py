"""CLIP: a causal text tower and a bidirectional vision tower, each ending in the joint space.

Two adapters share the classes; which one is used follows from what the input is.
"""

from dataclasses import replace

from residuum.capture.adapters.base import Adapter, Config, Tap


def _n_image_token(config: Config) -> int:
    """Return the class token plus one token per image patch."""
    return int((config.image_size // config.patch_size) ** 2 + 1)


CLIP_TEXT = Adapter(
    family="clip_text",
    kind="text",
    model_types={
        "clip": "CLIPTextModelWithProjection",
        "clip_text_model": "CLIPTextModelWithProjection",
    },
    models={
        "CLIPTextModelWithProjection": "text_model",
        "CLIPTextModel": "",
        "CLIPModel": "text_model",
    },
    blocks="encoder.layers",
    attention="self_attn",
    q=Tap("self_attn.q_proj", "output"),
    k=Tap("self_attn.k_proj", "output"),
    v=Tap("self_attn.v_proj", "output"),
    out_proj="self_attn.out_proj",
    attn_out=Tap("self_attn", "output"),
    mlp_out=Tap("mlp", "output"),
    mlp_pre=Tap("mlp.fc1", "output"),
    mlp_post=Tap("mlp.fc2", "input"),
    norms=("layer_norm1", "layer_norm2"),
    final_norm="final_layer_norm",
    pooling="projection",
    projections={
        "CLIPTextModelWithProjection": "text_projection",
        "CLIPModel": "text_projection",
    },
)

CLIP_VISION = replace(
    CLIP_TEXT,
    family="clip_vision",
    kind="image",
    model_types={
        "clip": "CLIPVisionModelWithProjection",
        "clip_vision_model": "CLIPVisionModelWithProjection",
    },
    models={
        "CLIPVisionModelWithProjection": "vision_model",
        "CLIPVisionModel": "",
        "CLIPModel": "vision_model",
    },
    final_norm="post_layernorm",
    causal=False,
    projections={
        "CLIPVisionModelWithProjection": "visual_projection",
        "CLIPModel": "visual_projection",
    },
    context=_n_image_token,
)
