"""Tiny CLIPs for the made pictures of `residuum.prompts.scenes`: the model, its words, its pixels.

Saved folders are complete: what `CLIPModel`, `AutoTokenizer` and `AutoImageProcessor` load, and
`residuum.capture` for pictures and for texts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedTokenizerFast,
)

from residuum.prompts.scenes import SIDE, World, words

# <end> is not 2: with that id alone, transformers takes a text's greatest id for its end.
SPECIAL = ("<pad>", "<start>", "<unk>", "<end>")
PATCH, D_EMBED, D_TEXT, D_TEXT_MLP = 4, 32, 32, 64
# What pixels from 0 to 1 are centred on and divided by, in each colour.
MEAN, DEVIATION = 0.5, 0.25
# transformers' own 0.02 suits wider models; here training would take much longer to leave it.
STD_EMBEDDING, STD_TEXT_POSITION = 0.1, 0.05


@dataclass(frozen=True)
class Sizes:
    """Of the vision tower, and the longest text in tokens."""

    d_model: int
    n_head: int
    d_mlp: int
    n_token: int
    n_layer: int = 3


def build(world: World, sizes: Sizes, seed: int) -> CLIPModel:
    """The model at its start."""
    torch.manual_seed(seed)
    ids = vocabulary(world)
    text = {
        "vocab_size": len(ids),
        "hidden_size": D_TEXT,
        "intermediate_size": D_TEXT_MLP,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": sizes.n_token,
        "projection_dim": D_EMBED,
        "pad_token_id": ids["<pad>"],
        "bos_token_id": ids["<start>"],
        "eos_token_id": ids["<end>"],
    }
    vision = {
        "hidden_size": sizes.d_model,
        "intermediate_size": sizes.d_mlp,
        "num_hidden_layers": sizes.n_layer,
        "num_attention_heads": sizes.n_head,
        "image_size": SIDE,
        "patch_size": PATCH,
        "projection_dim": D_EMBED,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=D_EMBED)
    model = CLIPModel(config)
    start(model)
    return model


@torch.no_grad()
def start(model: CLIPModel) -> None:
    """Embeddings large enough to tell apart from the first step on."""
    seen, read = model.vision_model.embeddings, model.text_model.embeddings
    seen.class_embedding.normal_(std=STD_EMBEDDING)
    seen.patch_embedding.weight.normal_(std=STD_EMBEDDING)
    seen.position_embedding.weight.normal_(std=STD_EMBEDDING)
    read.token_embedding.weight.normal_(std=STD_EMBEDDING)
    read.position_embedding.weight.normal_(std=STD_TEXT_POSITION)
    for projection in (model.visual_projection, model.text_projection):
        projection.weight.normal_(std=projection.in_features**-0.5)


def vocabulary(world: World) -> dict[str, int]:
    """Token ids by word."""
    return {word: i for i, word in enumerate((*SPECIAL, *words(world)))}


def tokenizer(world: World, n_token: int) -> PreTrainedTokenizerFast:
    """One token a word, between <start> and <end>, where a CLIP reads what a text says."""
    ids = vocabulary(world)
    raw = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>",
        special_tokens=[(word, ids[word]) for word in ("<start>", "<end>")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=n_token,
    )


def image_processor() -> CLIPImageProcessorPil:
    """What makes of a picture what `pixel_values` makes of its pixels."""
    square: dict[str, Any] = {"height": SIDE, "width": SIDE}
    return CLIPImageProcessorPil(
        size=square,
        crop_size=square,
        image_mean=[MEAN] * 3,
        image_std=[DEVIATION] * 3,
    )


def pixel_values(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Pixels [example, SIDE, SIDE, 3] as the vision tower reads them, [example, 3, SIDE, SIDE].

    To the bit what `image_processor` makes of them, which scales in 64-bit.
    """
    scaled = (pixels.astype(np.float64) * (1 / 255)).astype(np.float32)
    centred = (scaled - np.float32(MEAN)) / np.float32(DEVIATION)
    return torch.from_numpy(np.ascontiguousarray(centred.transpose(0, 3, 1, 2)))


def embed_pictures(model: CLIPModel, pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Unit vectors of pictures [example, SIDE, SIDE, 3], as [example, d_embed]."""
    pooled = model.vision_model(pixel_values=pixel_values(pixels)).pooler_output
    return torch.nn.functional.normalize(model.visual_projection(pooled), dim=-1)


def embed_texts(
    model: CLIPModel, reader: PreTrainedTokenizerFast, texts: list[str]
) -> torch.Tensor:
    """Unit vectors of texts, as [text, d_embed]."""
    tokens = reader(texts, padding=True, return_tensors="pt")
    read = model.text_model(
        input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
    ).pooler_output
    return torch.nn.functional.normalize(model.text_projection(read), dim=-1)


def save(model: CLIPModel, world: World, n_token: int, folder: Path) -> None:
    """Keep a model with all that reads for it."""
    model.save_pretrained(folder)
    tokenizer(world, n_token).save_pretrained(folder)
    image_processor().save_pretrained(folder)
