"""Tiny transformers models with odd shapes, all weights random, biases and gains included."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers as tf
from torch import nn

# Models this small gain nothing from threads, and lose much on a busy machine.
torch.set_num_threads(1)

N_VOCAB = 31
PAD, EOS = 0, 30
COMMON = {"bos_token_id": 29, "eos_token_id": EOS, "pad_token_id": PAD}
CLIP_TEXT = {
    "vocab_size": N_VOCAB,
    "hidden_size": 35,
    "intermediate_size": 44,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "max_position_embeddings": 16,
    "projection_dim": 11,
    **COMMON,
}
CLIP_VISION = {
    "hidden_size": 35,
    "intermediate_size": 52,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "image_size": 12,
    "patch_size": 4,
    "projection_dim": 11,
}


def _partly_rotary(share: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": share}


def _gpt2() -> tf.GPT2Config:
    return tf.GPT2Config(
        vocab_size=N_VOCAB, n_positions=16, n_embd=35, n_layer=3, n_head=5, n_inner=44, **COMMON
    )


def _gpt_neox(*, parallel: bool) -> tf.GPTNeoXConfig:
    return tf.GPTNeoXConfig(
        vocab_size=N_VOCAB,
        hidden_size=35,
        num_hidden_layers=3,
        num_attention_heads=5,
        intermediate_size=44,
        max_position_embeddings=16,
        use_parallel_residual=parallel,
        rope_parameters=_partly_rotary(0.6),
        **COMMON,
    )


def _grouped(config: Callable[..., Any], **more: Any) -> Any:
    return config(
        vocab_size=N_VOCAB,
        hidden_size=42,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=10,
        intermediate_size=52,
        max_position_embeddings=16,
        **COMMON,
        **more,
    )


def _phi() -> tf.PhiConfig:
    return tf.PhiConfig(
        vocab_size=N_VOCAB,
        hidden_size=40,
        num_hidden_layers=3,
        num_attention_heads=5,
        intermediate_size=44,
        max_position_embeddings=16,
        rope_parameters=_partly_rotary(0.5),
        **COMMON,
    )


def _gptj() -> tf.GPTJConfig:
    return tf.GPTJConfig(
        vocab_size=N_VOCAB,
        n_positions=16,
        n_embd=40,
        n_layer=3,
        n_head=5,
        n_inner=44,
        rotary_dim=6,
        **COMMON,
    )


def _gemma2() -> tf.Gemma2Config:
    # Caps low enough, and a window short enough, to matter.
    return _grouped(
        tf.Gemma2Config,
        attention_bias=True,
        query_pre_attn_scalar=7,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        sliding_window=4,
    )


def _opt() -> tf.OPTConfig:
    return tf.OPTConfig(
        vocab_size=N_VOCAB,
        hidden_size=35,
        word_embed_proj_dim=35,
        num_hidden_layers=3,
        num_attention_heads=5,
        ffn_dim=44,
        max_position_embeddings=16,
        **COMMON,
    )


def _bert(config: Callable[..., Any], **more: Any) -> Any:
    return config(
        vocab_size=N_VOCAB,
        hidden_size=35,
        num_hidden_layers=3,
        num_attention_heads=5,
        intermediate_size=44,
        max_position_embeddings=18,
        type_vocab_size=2,
        **{**COMMON, "pad_token_id": 1},
        **more,
    )


def _clip(**text: Any) -> tf.CLIPConfig:
    return tf.CLIPConfig(
        text_config={**CLIP_TEXT, **text}, vision_config=CLIP_VISION, projection_dim=11
    )


MODELS: dict[str, Callable[[], tuple[str, Any]]] = {
    "gpt2": lambda: ("GPT2LMHeadModel", _gpt2()),
    "gpt2_bare": lambda: ("GPT2Model", _gpt2()),
    "gpt_neox": lambda: ("GPTNeoXForCausalLM", _gpt_neox(parallel=True)),
    "gpt_neox_sequential": lambda: ("GPTNeoXForCausalLM", _gpt_neox(parallel=False)),
    "llama": lambda: (
        "LlamaForCausalLM",
        _grouped(tf.LlamaConfig, attention_bias=True, mlp_bias=True),
    ),
    # A window shorter than the longest example, so that it matters.
    "mistral": lambda: ("MistralForCausalLM", _grouped(tf.MistralConfig, sliding_window=4)),
    "qwen2": lambda: ("Qwen2ForCausalLM", _grouped(tf.Qwen2Config)),
    "gemma": lambda: ("GemmaForCausalLM", _grouped(tf.GemmaConfig, attention_bias=True)),
    "gemma2": lambda: ("Gemma2ForCausalLM", _gemma2()),
    "phi": lambda: ("PhiForCausalLM", _phi()),
    "gptj": lambda: ("GPTJForCausalLM", _gptj()),
    "opt": lambda: ("OPTForCausalLM", _opt()),
    "bert": lambda: ("BertModel", _bert(tf.BertConfig)),
    "bert_mlm": lambda: ("BertForMaskedLM", _bert(tf.BertConfig)),
    "roberta": lambda: ("RobertaModel", _bert(tf.RobertaConfig)),
    "clip_text": lambda: ("CLIPTextModelWithProjection", tf.CLIPTextConfig(**CLIP_TEXT)),
    "clip_text_gelu": lambda: ("CLIPModel", _clip(hidden_act="gelu", eos_token_id=2)),
    "clip_vision": lambda: ("CLIPVisionModelWithProjection", tf.CLIPVisionConfig(**CLIP_VISION)),
    "clip_vision_joint": lambda: ("CLIPModel", _clip()),
}
KIND = {"clip_vision": "image", "clip_vision_joint": "image"}
GATED = ("llama", "mistral", "qwen2", "gemma", "gemma2")
ROTARY = ("gpt_neox", "gpt_neox_sequential", *GATED, "phi", "gptj")
HEADS = ("gpt2", *ROTARY, "opt")
EAGER = ("gemma2", "gptj")
"""Those that attend in one way alone: GPT-J has no other, and Gemma 2's sdpa caps no scores."""

EXAMPLES = [[3, 1, 4, 1, 5, 9, 2, EOS], [6, 5, EOS], [EOS], [8, 9, 7, 9, 3, 2, 3, 8, 4, 6, EOS]]


def build(name: str, dtype: torch.dtype = torch.float64, attention: str = "sdpa") -> Any:
    """Make a model, in evaluation mode; the same one every time."""
    class_name, config = MODELS[name]()
    attention = "eager" if name in EAGER else attention
    torch.manual_seed(0)
    model = getattr(tf, class_name)._from_config(config, attn_implementation=attention)
    randomise(model)
    return model.to(dtype).eval()


def randomise(model: nn.Module) -> None:
    """Give every weight, bias and gain a value of its own, large enough to matter."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape)
            if weight.dim() > 1:
                weight.copy_(1.5 * noise / weight.shape[-1] ** 0.5)
            else:
                is_gain = "norm" in name.lower() or "ln_" in name
                weight.copy_(0.3 * noise + float(is_gain and name.endswith("weight")))


def save(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Write a model with its tokenizer or image processor, as a checkpoint folder."""
    model = build(name, dtype)
    model.save_pretrained(folder)
    if KIND.get(name) == "image":
        size = {"height": 12, "width": 12}
        tf.CLIPImageProcessorPil(size={"shortest_edge": 12}, crop_size=size).save_pretrained(folder)
    elif name == "qwen2":
        qwen2_tokenizer().save_pretrained(folder)
    else:
        tokenizer().save_pretrained(folder)
    return model


def tokenizer() -> tf.PreTrainedTokenizerFast:
    """Return a tokenizer of `N_VOCAB` words: w0 to w28, then <bos> and <eos>; unknown is w2."""
    words = {f"w{i}": i for i in range(29)} | {"<bos>": 29, "<eos>": EOS}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w2"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="w0", bos_token="<bos>", eos_token="<eos>", unk_token="w2"
    )


def qwen2_tokenizer() -> tf.Qwen2Tokenizer:
    """The same words for a Qwen2: transformers reads its folders by that class in any case."""
    words = {f"w{i}": i for i in range(29)} | {"<bos>": 29, "<eos>": EOS}
    special = {"pad_token": "w0", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "w2"}
    made = tf.Qwen2Tokenizer(vocab=words, merges=[], **special)
    # Words whole, not letter by letter.
    made.add_tokens(
        [tokenizers.AddedToken(f"w{i}", lstrip=True, normalized=False) for i in range(29)]
    )
    return made


def examples(name: str) -> list[Any]:
    """Return examples of different lengths, or images."""
    if KIND.get(name) == "image":
        generator = torch.Generator().manual_seed(1)
        return list(torch.randn(3, 3, 12, 12, dtype=torch.float64, generator=generator))
    return EXAMPLES


_NARROW = ("clip", "gpt_neox", "gptj", "llama", "mistral", "opt", "phi", "qwen2")


class _Wide:
    """The torch module, except that float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def in_64_bit() -> Iterator[None]:
    """Run transformers' models in 64-bit throughout.

    Several families round to float32 inside (RMSNorm, the softmax of eager attention) whatever the
    model's dtype, which would hide anything smaller than 1e-7.
    """
    files = [
        importlib.import_module(f"transformers.models.{name}.modeling_{name}")
        for name in (*_NARROW, "gemma", "gemma2")
    ]
    norms = (files[-2].GemmaRMSNorm, files[-1].Gemma2RMSNorm)
    narrow = [norm.forward for norm in norms]
    for norm in norms:
        norm.forward = _gemma_norm
    for file in files:
        file.torch = _Wide()
    try:
        yield
    finally:
        for norm, forward in zip(norms, narrow, strict=True):
            norm.forward = forward
        for file in files:
            file.torch = torch


def _gemma_norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Gemma's norm without its `x.float()`, which no module's name stands for."""
    return self._norm(x) * (1.0 + self.weight)
