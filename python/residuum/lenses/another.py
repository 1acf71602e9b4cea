"""Lenses of one model on the states of another: that can be meant, and is said."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from residuum.lenses.published import unembed_hash

if TYPE_CHECKING:
    from residuum.lenses.tuned import TunedLens
    from residuum.store import Store


def warn_of_another(store: Store, lens: TunedLens) -> None:
    """Say that a lens is of other weights than the store's, as far as both are known.

    A lens that was trained here knows the hash of all weights. A published one knows its model's
    unembedding by a hash, which is a hint and no more.
    """
    trained, own = lens.about.get("weights_hash"), store.model.get("weights_hash")
    known, w_u = lens.about.get("unembed_hash"), store.weights.get("W_U")
    if trained is not None and own is not None and trained != own:
        message = (
            f"the lens was trained on other weights than those of {store.path}: its model is "
            f"{lens.about.get('model')}, the store's {store.model.get('name')}"
        )
    elif known is not None and w_u is not None and known != unembed_hash(w_u):
        message = (
            f"{lens.about.get('checkpoint', 'the lens')} was made for another unembedding than "
            f"that of {store.path}: it says that its model is {lens.about.get('model')}"
        )
    else:
        return
    warnings.warn(message, stacklevel=3)
