"""Tuned lenses: for each state of the stream an affine map to where the model will end.

    train(store) ──▶ TunedLens ──save──▶ lenses/NAME.safetensors of the store ──▶ SQL, analyses
                        ▲    └──publish──▶ a folder that the package tuned-lens loads
                        └── published checkpoints, lenses of a store

Source: Belrose et al. 2023, Eliciting Latent Predictions from Transformers with the Tuned Lens
(arXiv 2303.08112). States are numbered as there: 0 is the embedding, s what enters block s, and the
last, which no map belongs to, what leaves the last block.
"""

from residuum.lenses.causal import Basis, causal_basis
from residuum.lenses.published import publish, published
from residuum.lenses.recipe import Recipe
from residuum.lenses.stored import names, save, stored
from residuum.lenses.training import Trained, train
from residuum.lenses.tuned import TunedLens

__all__ = [
    "Basis",
    "Recipe",
    "Trained",
    "TunedLens",
    "causal_basis",
    "names",
    "publish",
    "published",
    "save",
    "stored",
    "train",
]
