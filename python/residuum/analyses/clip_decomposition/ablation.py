"""T2: zero-shot accuracy where sets of components are replaced by their means over the images.

Two passes over the images: the first adds up means, the second takes what is lost away from the
logits, set by set, so that no share is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.clip.maps import class_token_shares
from residuum.errors import SiteError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from residuum.analyses.clip_decomposition.study import Study
    from residuum.clip.effects import Effects

    Numbers = NDArray[np.int64]
    Wide = NDArray[np.float64]

LAST = 4
"""Attention layers that carry the effect, by the paper."""


def ablation(study: Study) -> Iterator[dict[str, Any]]:
    """Rows of the table `ablation`."""
    label, groups = study.label, study.groups
    own = _class_token(study)
    sets = _sets(study, own)
    means = _means(study)
    logits = {key: np.empty((len(label), len(study.classes)), np.float32) for key in sets}
    for place, some in study.blocks(study.classes.vectors):
        lost = some.shares - means
        for key, (components, with_own) in sets.items():
            left = some.total - lost[:, components].sum(axis=1)
            logits[key][place] = left - own[place] if with_own and own is not None else left
    for (what, upto), values in logits.items():
        accuracy = groups.accuracy(values)
        yield {
            "model": study.model,
            "dataset": str(study.store.path.name).removesuffix(".residuum"),
            "what": what,
            "upto_layer": upto,
            "accuracy": float((values.argmax(axis=1) == label).mean()),
            "worst_group": float(accuracy.min()),
            "n": len(label),
        }


def _means(study: Study) -> Wide:
    """Mean share of each component along each class, `[component, class]`."""
    total: Wide | float = 0.0
    for _, some in study.blocks(study.classes.vectors):
        total = total + some.shares.sum(axis=0, dtype=np.float64)
    return np.asarray(total) / len(study.images)


def _class_token(study: Study) -> Wide | None:
    """What class tokens say by looking at themselves, less its mean; None where not captured."""
    try:
        own = class_token_shares(study.stored, study.classes.vectors)
    except SiteError as error:
        study.leave_out("ablation", f"class token to itself: {error}")
        return None
    return np.asarray(own - own.mean(axis=0, dtype=np.float64))


def _sets(study: Study, own: Wide | None) -> Mapping[tuple[str, int | None], tuple[Numbers, bool]]:
    """Components of each set, and whether class tokens' looks at themselves are in it too."""
    parts: Effects = study.along(study.classes.vectors[:1], study.images.example[:1])
    mlps, rest = study.all_mlps, parts.numbers("rest")
    none = mlps[:0]
    sets: dict[tuple[str, int | None], tuple[Numbers, bool]] = {("none", None): (none, False)}
    if len(mlps):
        sets["MLPs", None] = (mlps, False)
    if len(rest):
        sets["all that was not captured by itself", None] = (rest, False)
    if own is not None:
        sets["class token to itself", None] = (none, True)
        if len(mlps):
            sets["MLPs and class token to itself", None] = (mlps, True)
    n_layer = study.stored.tower.n_layer
    for layer in range(n_layer):
        if layer not in study.stored.layers:
            reason = f"attention of layers 0 to {layer}: `z` of layer {layer} was not captured"
            study.leave_out("ablation", reason)
            break
        upto = range(layer + 1)
        kinds = [parts.numbers(kind, layers=upto) for kind in ("head", "attention bias")]
        sets["attention", layer] = (np.concatenate(kinds), False)
        if layer == n_layer - LAST - 1:
            sets[f"all but the last {LAST} of attention", None] = (np.concatenate(kinds), False)
    sets["everything", None] = (np.arange(parts.components.num_rows), False)
    return sets
