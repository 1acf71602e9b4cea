"""Made pictures: a shape before a background, captions that name them, and where the shape is.

    World ──shapes(n) | repair(n)──▶ Pictures ──write(folder)──▶ images.parquet, PNGs, masks.npy
      └──texts, words──▶ every caption that can be said, and its words, for a tokenizer

Two worlds for image and text encoders small enough to train in a minute. Each shape has a favourite
background, and how often it stands there is asked for: a cue that a model may take for the shape.
Pictures are 24 x 24, seeded, and drawn by nothing but numpy.

The worlds are our own. `REPAIR` stands for Waterbirds (two classes, two backgrounds, four groups):
there arXiv 2310.05916 takes a spurious cue out of the heads of CLIP.
"""

from residuum.prompts.scenes.captions import texts, words
from residuum.prompts.scenes.pictures import SIDE, Pictures
from residuum.prompts.scenes.repair import repair
from residuum.prompts.scenes.shapes import shapes
from residuum.prompts.scenes.world import REPAIR, SHAPES, World
from residuum.prompts.scenes.write import write

__all__ = [
    "REPAIR",
    "SHAPES",
    "SIDE",
    "Pictures",
    "World",
    "repair",
    "shapes",
    "texts",
    "words",
    "write",
]
