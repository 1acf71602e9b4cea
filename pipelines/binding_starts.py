"""Starting weights of the models that train_binding_models.py trains.

From usual random weights these models stay for thousands of steps at "name one of the listed
attributes". What ends that is the start: keys equal queries (a token looks at tokens like it), what
a head writes is what it reads (the output projection is the transpose of the value projection), and
content and position lie apart in the stream. No start solves the task.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GPT2LMHeadModel, GPTNeoXForCausalLM

WORD_SCALE, REST_SCALE = 0.2, 0.1
CONTENT_GAIN, POSITION_GAIN = 0.8, 0.5
DIRECT_GAIN, DIRECT_VALUE_GAIN = 0.5, 0.7
DIRECT_WORD_SCALE, DIRECT_UNEMBED_SHARE = 0.5, 0.4
STEER_CONTENT, STEER_BIAS = 0.2, 2.0


def orthogonal(n: int) -> torch.Tensor:
    """A random rotation, `[n, n]`."""
    rotation: torch.Tensor = torch.linalg.qr(torch.randn(n, n)).Q
    return rotation


@torch.no_grad()
def start_by_halves(model: GPT2LMHeadModel) -> None:
    """Two heads: one looks at equal words, the other at equal positions.

    Words are written into the first half of the stream, positions into the second.
    """
    d = model.config.n_embd
    half = d // 2
    words, places = model.transformer.wte.weight, model.transformer.wpe.weight
    words.zero_()[:, :half].normal_(0, WORD_SCALE)
    places.zero_()[:, half:].normal_(0, WORD_SCALE)
    blocks: list[Any] = list(model.transformer.h)
    for block in blocks:
        same = torch.zeros(d, d)
        same[:half, :half] = CONTENT_GAIN * orthogonal(half)
        same[half:, half:] = POSITION_GAIN * orthogonal(half)
        value = orthogonal(d)
        # Stored as [in, out], q, k and v side by side.
        block.attn.c_attn.weight.copy_(torch.cat([same, same, value], 1))
        block.attn.c_proj.weight.copy_(value.T)
        block.mlp.c_fc.weight.normal_(0, REST_SCALE)
        block.mlp.c_proj.weight.normal_(0, REST_SCALE)


@torch.no_grad()
def start_looking_back(model: GPTNeoXForCausalLM, steps: Sequence[int]) -> None:
    """Heads look at equal words, but the last ones of the first layer, which look back.

    Each of these looks so many tokens back. With one that reaches from an attribute to its entity,
    the attribute can take up the entity's content: the control is steered to direct binding. With
    heads for 1, 2, … n steps a token can tell how far behind `<bos>` or `<sep>` it stands, by which
    head finds one: that can serve as an ID where positions are rotary.
    """
    config: Any = model.config
    d, n_head = config.hidden_size, config.num_attention_heads
    d_head = d // n_head
    embedding: Any = model.gpt_neox.embed_in
    words = embedding.weight.normal_(0, DIRECT_WORD_SCALE)
    if len(steps) > 1:
        # What opens the list of entities looks at first like what opens that of attributes.
        words[config.eos_token_id] = words[config.bos_token_id]
    unembedding: Any = model.get_output_embeddings()
    unembedding.weight.copy_(DIRECT_UNEMBED_SHARE * words)
    blocks: list[Any] = list(model.gpt_neox.layers)
    for layer, block in enumerate(blocks):
        same = DIRECT_GAIN * orthogonal(d)
        value = DIRECT_VALUE_GAIN * orthogonal(d)
        fused = torch.cat(
            [same.view(n_head, 1, d_head, d)] * 2 + [value.view(n_head, 1, d_head, d)], 1
        )
        bias = torch.zeros(n_head, 3, d_head)
        if not layer:
            for head, back in zip(range(n_head - len(steps), n_head), steps, strict=True):
                fused[head, :2] *= STEER_CONTENT
                bias[head, 0] = STEER_BIAS
                bias[head, 1] = turned(bias[head, 0], back, config.rope_parameters["rope_theta"])
        block.attention.query_key_value.weight.copy_(fused.reshape(3 * d, d))
        block.attention.query_key_value.bias.copy_(bias.flatten())
        block.attention.dense.weight.copy_(value.T)
        block.attention.dense.bias.zero_()
        block.mlp.dense_h_to_4h.weight.normal_(0, REST_SCALE)
        block.mlp.dense_4h_to_h.weight.normal_(0, REST_SCALE)


def turned(vector: torch.Tensor, steps: int, theta: float) -> torch.Tensor:
    """A vector `[d_head]` as a rotary model turns it by so many positions; halves are pairs.

    A key that starts out as its query turned by s matches best s tokens before the query.
    """
    half = len(vector) // 2
    angle = steps * theta ** (-torch.arange(half) / half)
    a, b = vector[:half], vector[half:]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos])
