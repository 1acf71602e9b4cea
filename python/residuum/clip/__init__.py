"""CLIP's vision tower taken apart: heads, image patches and texts, from a store.

    capture z, resid_final (and pattern, image_v) of class tokens
        └▶ effects       shares of heads, MLPs, biases along directions; mean ablations; searches
        └▶ text_bases    the texts that span each head (TextSpan), no image touched again
        └▶ patch_maps    heat maps of a text; segmentation, and the rivals of the maps
        └▶ similar_images, top_images    retrieval by what some heads say

Source: Gandelsman, Efros and Steinhardt 2024, Interpreting CLIP's Image Representation via
Text-Based Decomposition (arXiv 2310.05916).
"""

from residuum.clip.baselines import (
    attention_rollout,
    random_maps,
    raw_attention,
    value_norm_attention,
)
from residuum.clip.effects import Effects, effects
from residuum.clip.gradient_maps import grad_cam, transformer_attribution
from residuum.clip.images import Images
from residuum.clip.maps import class_token_shares, head_maps, map_layers, patch_maps
from residuum.clip.masks import aligned, cropped
from residuum.clip.retrieval import Ranked, head_vectors, similar_images, top_images
from residuum.clip.search import (
    Found,
    Groups,
    cue_directions,
    exhaustive,
    greedy,
    spurious_scores,
)
from residuum.clip.segmentation import Segmentation, foreground, scores, segmentation, upsampled
from residuum.clip.stored import Stored
from residuum.clip.text_bases import HeadBasis, text_bases
from residuum.clip.texts import Texts, classes, general_descriptions, texts
from residuum.clip.tower import Tower

__all__ = [
    "Effects",
    "Found",
    "Groups",
    "HeadBasis",
    "Images",
    "Ranked",
    "Segmentation",
    "Stored",
    "Texts",
    "Tower",
    "aligned",
    "attention_rollout",
    "class_token_shares",
    "classes",
    "cropped",
    "cue_directions",
    "effects",
    "exhaustive",
    "foreground",
    "general_descriptions",
    "grad_cam",
    "greedy",
    "head_maps",
    "head_vectors",
    "map_layers",
    "patch_maps",
    "random_maps",
    "raw_attention",
    "scores",
    "segmentation",
    "similar_images",
    "spurious_scores",
    "text_bases",
    "texts",
    "top_images",
    "transformer_attribution",
    "upsampled",
    "value_norm_attention",
]
