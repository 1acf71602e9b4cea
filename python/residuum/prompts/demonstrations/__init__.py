"""Few-shot prompts whose demonstrations are right or wrong, and where in them the labels stand.

    Dataset (items, templates) ──▶ build ──▶ rows: text, labels, character spans ──▶ capture
      loader.py   your own files, for the 14 sets of templates.py or templates of your own
      synthetic.py  sets that need no file      worlds.py  languages that small models learn

After Halawi, Denain and Steinhardt 2023, Overthinking the Truth, arXiv 2307.09476.
"""

from residuum.prompts.demonstrations.build import SETTINGS, build
from residuum.prompts.demonstrations.dataset import Dataset, Item, Template
from residuum.prompts.demonstrations.first_tokens import first_tokens
from residuum.prompts.demonstrations.loader import load
from residuum.prompts.demonstrations.synthetic import letters, unnatural, with_letters
from residuum.prompts.demonstrations.templates import TEMPLATES
from residuum.prompts.demonstrations.worlds import (
    World,
    curve_world,
    model_a_shared_world,
    model_a_world,
    model_b_world,
)

__all__ = [
    "SETTINGS",
    "TEMPLATES",
    "Dataset",
    "Item",
    "Template",
    "World",
    "build",
    "curve_world",
    "first_tokens",
    "letters",
    "load",
    "model_a_shared_world",
    "model_a_world",
    "model_b_world",
    "unnatural",
    "with_letters",
]
