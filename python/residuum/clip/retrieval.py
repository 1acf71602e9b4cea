"""Images by one property: nearest by what some heads say, and by what one says of a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from residuum import kernels
from residuum.clip.effects import BLOCK, finite
from residuum.clip.stored import Stored
from residuum.errors import ArgumentError
from residuum.replay.numbers import single

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from residuum.clip.images import Images
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
    store: Store | Stored | str | Path,
    heads: Iterable[Sequence[int]],
    *,
    examples: ArrayLike | None = None,
    centred: bool = True,
) -> Floats:
    """What some heads add to each image's vector, summed, `[image, d_embed]`.

    Args:
        store: with `z` and `resid_final` of class tokens, or its path.
        heads: pairs of layer and head; several pool what they say.
        examples: numbers of the examples, or a mask of all; all by default.
        centred: take the mean over these images out, which every image shares.

    Raises:
        ArgumentError: no head, or what is no pair of whole numbers; examples likewise.
        SelectionError: a head that no layer has, or an example that is not there.
        SiteError: a layer that was not captured.
    """
    stored = Stored.of(store)
    images = stored.images(examples)
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
    if not centred or not len(images):
        return out
    return np.asarray(out - out.mean(axis=0, dtype=np.float64).astype(np.float32))


def similar_images(
    store: Store | Stored | str | Path,
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
        queries: numbers of examples among those that are searched, one alone, or a mask of them;
            neither an image nor its repeats are found for it, and one on the mean, which has no
            direction, neither finds nor is found.
        k: how many for each.
        examples: numbers of those that are searched, or a mask of all; all by default.

    Raises:
        ArgumentError: k below 1, or numbers that are not whole.
        SelectionError: a head or an example that is not there.
        SiteError: a layer that was not captured.
    """
    _check_k(k)
    stored = Stored.of(store)
    images = stored.images(examples)
    vectors = head_vectors(stored, heads, examples=images.example)
    place = {number: at for at, number in enumerate(images.example.tolist())}
    asked = images.named(queries).example.tolist()
    found, value = nearest(images, vectors, np.array([place[number] for number in asked], int), k)
    return Ranked(np.where(found >= 0, images.example[found], -1), value)


def nearest(
    images: Images, vectors: Floats, queries: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], Floats]:
    """The images whose vectors are nearest to those of others by cosine; none has itself or a twin.

    Args:
        images: those that are searched.
        vectors: `[image, d]`.
        queries: places of the images that are asked about, `[query]`.
        k: how many for each.

    Returns:
        Places `[query, rank]`, -1 where there are no more, and float32 similarities, NaN there.
    """
    alike = np.bincount(np.unique(images.row, return_inverse=True)[1]).max(initial=0)
    n = min(k + int(alike), len(images))
    found = kernels.knn(vectors, vectors[queries], n, metric="cosine")
    other = (found.rows >= 0) & (images.row[found.rows] != images.row[queries][:, None])
    first = np.argsort(~other, axis=1, kind="stable")[:, : min(k, max(len(images) - 1, 0))]
    there = np.take_along_axis(other, first, axis=1)
    places = np.take_along_axis(found.rows, first, axis=1)
    scores = np.take_along_axis(found.scores, first, axis=1)
    return np.where(there, places, -1), np.where(there, scores, np.float32(np.nan))


def top_images(
    store: Store | Stored | str | Path,
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

    Raises:
        ArgumentError: k below 1, another `by`, or a direction of another width or not finite.
        SelectionError: a head that the layer does not have.
        SiteError: a layer that was not captured.
    """
    _check_k(k)
    if by not in ("share", "deviation"):
        message = f"by is share or deviation, not {by!r}"
        raise ArgumentError(message)
    stored = Stored.of(store)
    shares = head_vectors(stored, [(layer, head)], centred=by == "deviation")
    given = finite("numbers of a direction", direction)
    if given.shape != shares.shape[1:]:
        message = f"a direction is [{shares.shape[1]}], not {list(given.shape)}"
        raise ArgumentError(message)
    along = shares @ given
    order = np.argsort(-np.abs(along) if by == "deviation" else -along, kind="stable")[:k]
    return Ranked(stored.every.example[order][None], along[order][None])


def _check_k(k: int) -> None:
    """Refuse to look for no image.

    Raises:
        ArgumentError: k is no whole number, or below 1.
    """
    if single("k", k) < 1:
        message = f"k is 1 at least, not {k}"
        raise ArgumentError(message)
