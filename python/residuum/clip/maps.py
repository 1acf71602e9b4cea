"""Heat maps: what each patch of an image adds along directions, head by head or summed.

`pattern * (v @ W_O @ folded @ direction) / sigma`, from the class token's row of `pattern` and the
values of all tokens; over patches and the class token itself it sums to what the head adds
(Gandelsman et al. 2024, section 3). Maps are never stored: a map of one direction costs `d_head`
multiplications a head and patch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np

from residuum import kernels
from residuum.clip.effects import BLOCK, Convention, finite
from residuum.clip.stored import Stored
from residuum.errors import ArgumentError, SiteError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from residuum.store import Store

    Floats = NDArray[np.float32]


def patch_maps(
    store: Store | Stored | str | Path,
    directions: ArrayLike,
    *,
    examples: ArrayLike | None = None,
    layers: Sequence[int] | None = None,
    heads: Iterable[Sequence[int]] | None = None,
    convention: Convention = "folded",
) -> Floats:
    """What each token of each image adds along directions, summed over layers and heads.

    Args:
        store: with `z`, `resid_final` and `pattern` of class tokens, and `image_v` (or `v` and
            `pattern` of all tokens).
        directions: `[direction, d_embed]`.
        examples: numbers of the examples; all by default.
        layers: which layers; all that were captured with patches by default.
        heads: pairs of layer and head, in place of `layers`.
        convention: as for `effects`; `even_split` gives each token of each head its share of the
            attention's bias, of the mean and of the final norm's shift, as the paper's code does.

    Returns:
        float32 `[image, token, direction]`; token 0 is the class token itself.

    Raises:
        StoreError: no CLIP vision tower.
        SiteError: a site or layer that was not captured.
        SelectionError: a head that no layer has.
    """
    stored = Stored.of(store)
    images = stored.images(examples)
    wanted = _wanted(stored, layers, heads)
    given = finite("directions", directions)
    out = np.zeros((len(images), images.n_token, len(given)), np.float32)
    cells = _Cells(stored, given, convention, images.n_token)
    each = 4 * images.n_token * (stored.tower.w_o.shape[-1] + stored.tower.n_head + 2 * len(given))
    for place in images.blocks(each, BLOCK):
        some = images.taken(place)
        final = stored.final(some)
        scale = stored.tower.divisor(final)
        for layer, chosen in wanted.items():
            which = slice(None) if chosen is None else np.array(chosen)
            readout = stored.tower.readout(layer, cells.along)[which]
            out[place] += kernels.image_patch_maps(
                some.pattern(layer)[:, which],
                some.values(layer)[:, :, which],
                readout,
                scale=scale,
                summed=True,
            )
            out[place] += (len(readout) * cells.share(layer, final))[:, None]
    return out


def head_maps(
    store: Store | Stored | str | Path,
    directions: ArrayLike,
    layer: int,
    *,
    examples: ArrayLike | None = None,
    convention: Convention = "folded",
) -> Floats:
    """The same for every head of a layer by itself, `[image, head, token, direction]`."""
    stored = Stored.of(store)
    images = stored.images(examples)
    _wanted(stored, [layer], None)
    given = finite("directions", directions)
    cells = _Cells(stored, given, convention, images.n_token)
    readout = stored.tower.readout(layer, cells.along)
    shape = (len(images), stored.tower.n_head, images.n_token, len(given))
    out = np.empty(shape, np.float32)
    each = 4 * (images.n_token * stored.tower.w_o.shape[-1] + out[:1].size)
    for place in images.blocks(each, BLOCK):
        some = images.taken(place)
        final = stored.final(some)
        out[place] = kernels.image_patch_maps(
            some.pattern(layer),
            some.values(layer),
            readout,
            scale=stored.tower.divisor(final),
        )
        out[place] += cells.share(layer, final)[:, None, None]
    return out


class _Cells:
    """What tokens of heads are multiplied by, and what each has of biases in a convention."""

    def __init__(
        self, stored: Stored, directions: Floats, convention: Convention, n_token: int
    ) -> None:
        if convention not in get_args(Convention):
            message = f"convention is folded or even_split, not {convention!r}"
            raise ArgumentError(message)
        self.tower, self.directions = stored.tower, directions
        self.even = convention == "even_split"
        self.n = n_token * stored.tower.n_head
        along = stored.tower.unfolded if self.even else stored.tower.along
        self.along = along(directions)

    def share(self, layer: int, final: Floats) -> Floats:
        """Of one token of one head, `[image, direction]`."""
        if not self.even:
            return np.zeros((len(final), len(self.directions)), np.float32)
        bias = self.tower.b_o[layer] @ self.along / self.tower.divisor(final)[:, None]
        even = self.tower.even_share(self.directions, final)
        return np.asarray((bias + even) / self.n, np.float32)


def class_token_shares(
    store: Store | Stored | str | Path,
    directions: ArrayLike,
    *,
    examples: ArrayLike | None = None,
) -> Floats:
    """What class tokens add by looking at themselves, over all heads, `[image, direction]`.

    Raises:
        SiteError: `pattern`, or the values of class tokens (`v` or `image_v`), of a layer of `z`
            were not captured.
    """
    stored = Stored.of(store)
    images = stored.images(examples)
    given = finite("directions", directions)
    along = stored.tower.along(given)
    out = np.zeros((len(images), len(given)), np.float32)
    # Where `v` was not captured, class tokens are read with all others.
    n_read = 1 if "v" in stored.store.sites else images.n_token
    each = 4 * (n_read + 2) * (stored.tower.w_o.shape[-1] + stored.tower.n_head)
    for place in images.blocks(each, BLOCK):
        some = images.taken(place)
        scale = stored.tower.divisor(stored.final(some))
        for layer in stored.layers:
            looks = some.pattern(layer)[:, :, :1] * some.class_values(layer)
            shares = kernels.attribution(looks, stored.tower.w_o[layer], along, scale=scale)
            out[place] += shares.sum(axis=1)
    return out


def map_layers(store: Store) -> tuple[int, ...]:
    """The layers of which patches can be told apart."""
    values = "image_v" if "image_v" in store.sites else "v"
    if values not in store.sites or "pattern" not in store.sites:
        return ()
    return tuple(layer for layer in store[values].layers if layer in store["pattern"].layers)


def _wanted(
    stored: Stored, layers: Sequence[int] | None, heads: Iterable[Sequence[int]] | None
) -> dict[int, list[int] | None]:
    """Which heads of each layer; None is all of them."""
    if layers is not None and heads is not None:
        message = "give layers or heads, not both: a head names its layer"
        raise ArgumentError(message)
    wanted: dict[int, list[int] | None]
    store = stored.store
    there = map_layers(store)
    if heads is not None:
        wanted = {}
        for layer, head in stored.pairs(heads):
            wanted[layer] = [*(wanted.get(layer) or []), head]
    else:
        wanted = dict.fromkeys(there if layers is None else layers)
    missing = [layer for layer in wanted if layer not in there]
    if missing or not wanted:
        which = f"layer {missing[0]}" if missing else "no layer"
        message = (
            f"maps of patches need `pattern` and `image_v` of a layer; {store.path} has both of "
            f"{', '.join(map(str, there)) or 'none'}"
            + (f", not of {which}" if missing else "")
            + ": capture them with --site pattern --site image_v --layers …"
        )
        raise SiteError(message)
    return wanted
