"""Images by one property: nearest by what some heads say, and by what one says of a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from residuum import kernels
from residuum.clip.effects import BLOCK
from residuum.clip.images import Images
from residuum.clip.stored import Stored
from residuum.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from residuum.store import Store

    Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Ranked:
    """Images in order.

    Attributes:
        example: int64 `[query, rank]`, numbers of examples; -1 where there is none.
        value: float32 `[query, rank]`, cosine similarity or share; NaN where there is none.
    """

    example: NDArray[np.int64]
    value: Floats


def head_vectors(
    store: Store,
    heads: Iterable[Sequence[int]],
    *,
    examples: ArrayLike | None = None,
    centred: bool = True,
) -> Floats:
    """What some heads add to each image's vector, summed, `[image, d_embed]`.

    Args:
        store: with `z` and `resid_final` of class tokens.
        heads: pairs of layer and head; several pool what they say.
        examples: numbers of the examples; all by default.
        centred: take the mean over these images out, which every image shares.

    Raises:
        ArgumentError: no head.
        SelectionError: a head that no layer has.
        SiteError: a layer that was not captured.
    """
    stored, images = Stored(store), Images.of(store, examples)
    pairs = stored.pairs(heads)
    if not pairs:
        message = "name one head at least, as a pair of layer and head"
        raise ArgumentError(message)
    along = stored.tower.along(np.eye(stored.tower.d_embed, dtype=np.float32))
    out = np.zeros((len(images), stored.tower.d_embed), np.float32)
    chosen = {layer: [head for at, head in pairs if at == layer] for layer, _ in pairs}
    for layer in chosen:
        stored.z(images.taken(slice(0, 0)), layer)  # a layer that was not captured is refused here
    through = {layer: stored.tower.readout(layer, along)[of] for layer, of in chosen.items()}
    each = 12 * stored.tower.w_o.shape[-1] + 8 * stored.tower.d_embed
    for place in images.blocks(each, BLOCK):
        some = images.taken(place)
        divisor = stored.tower.divisor(stored.final(some))
        for layer, of in chosen.items():
            z = stored.z(some, layer, of).reshape(len(some), -1)
            out[place] += kernels.matmul(z, through[layer].reshape(z.shape[1], -1))
        out[place] /= divisor[:, None]
    return out - out.mean(axis=0, dtype=np.float64).astype(np.float32) if centred else out


def similar_images(
    store: Store,
    heads: Iterable[Sequence[int]],
    queries: ArrayLike,
    *,
    k: int = 10,
    examples: ArrayLike | None = None,
) -> Ranked:
    """The images most like others in what some heads say (cosine of centred outputs).

    Args:
        store: as for `head_vectors`.
        heads: those of the property, such as all that say colours.
        queries: numbers of examples among those that are searched; an image is not found for
            itself, and one on the mean, which has no direction, neither finds nor is found.
        k: how many for each.
        examples: numbers of those that are searched; all by default.
    """
    images = Images.of(store, examples)
    vectors = head_vectors(store, heads, examples=examples)
    asked = images.named(queries)
    place = {number: at for at, number in enumerate(images.example.tolist())}
    at = np.array([place[number] for number in asked.example.tolist()], np.int64)
    found = kernels.knn(vectors, vectors[at], min(k + 1, len(images)), metric="cosine")
    own = found.rows == at[:, None]
    own[~own.any(axis=1), -1] = True  # a twin stood in its place: leave out the last
    keep = ~own
    shape = (len(at), found.rows.shape[1] - 1)
    rows, scores = found.rows[keep].reshape(shape), found.scores[keep].reshape(shape)
    return Ranked(np.where(rows < 0, -1, images.example[rows]), scores)


def top_images(
    store: Store,
    layer: int,
    head: int,
    direction: ArrayLike,
    *,
    k: int = 10,
    by: Literal["share", "deviation"] = "share",
) -> Ranked:
    """The images to which a head adds most along a direction, such as a text's.

    Args:
        store: as for `head_vectors`.
        layer: of the head.
        head: which one.
        direction: `[d_embed]`.
        k: how many.
        by: the share itself, or how far it is from the mean over images, either way.
    """
    if by not in ("share", "deviation"):
        message = f"by is share or deviation, not {by!r}"
        raise ArgumentError(message)
    shares = head_vectors(store, [(layer, head)], centred=by == "deviation")
    given = np.asarray(direction, np.float32)
    if given.shape != shares.shape[1:]:
        message = f"a direction is [{shares.shape[1]}], not {list(given.shape)}"
        raise ArgumentError(message)
    along = shares @ given
    order = np.argsort(-np.abs(along) if by == "deviation" else -along, kind="stable")[:k]
    return Ranked(Images.of(store).example[order][None], along[order][None])
