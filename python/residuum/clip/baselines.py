"""What maps of contributions are compared with: maps of attention, without any gradient.

All give float32 `[image, patch]`, patches row by row, the class token left out, and read the store
in blocks of images. Maps from gradients are in `residuum.clip.gradient_maps`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from residuum.errors import SiteError
from residuum.quantities import parse_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from residuum.clip.images import Images

    Floats = NDArray[np.float32]


def raw_attention(images: Images, layer: int = -1, *, memory: int | str = "1GB") -> Floats:
    """What a layer's class token looks at, mean over heads.

    Args:
        images: of a store with `pattern`.
        layer: from 0, or from the end: -1 is the last.
        memory: bytes for the images that are read at once, such as "1GB".

    Returns:
        float32 `[image, patch]`. What the class token looks at itself is left out, so that the sum
        of a map is below 1.

    Raises:
        SiteError: `pattern` was not captured, or not of this layer.
        InputError: a memory budget that is no size.
    """
    out = _empty(images)
    for block in images.blocks(_pattern_bytes(images), parse_memory(memory)):
        pattern = images.taken(block).pattern(layer)  # [image, head, token]
        out[block] = pattern[:, :, 1:].mean(axis=1)
    return out


def attention_rollout(images: Images, *, memory: int | str = "1GB") -> Floats:
    """Attention of the class token followed down through all layers to the patches.

    The product over layers of (A + I) / 2, with A the mean over heads of a layer's attention and
    its rows divided by their sums. (Abnar & Zuidema 2020, Quantifying Attention Flow in
    Transformers.)

    Args:
        images: of a store with the `pattern` of all tokens in all layers (positions="all").
        memory: bytes for the images that are read at once, such as "1GB".

    Returns:
        float32 `[image, patch]`: the class token's row of the product.

    Raises:
        SiteError: `pattern` was not captured, or not of all tokens, or not in all layers.
        InputError: a memory budget that is no size.
    """
    _check_all_tokens(images)
    out = _empty(images)
    for block in images.blocks(_pattern_bytes(images) * images.n_token, parse_memory(memory)):
        out[block] = _rolled(images.taken(block))[:, 1:]
    return out


def value_norm_attention(images: Images, layer: int = -1, *, memory: int | str = "1GB") -> Floats:
    """A layer's attention of the class token times how long the vectors are that it moves.

    The weight of a patch in a head is `attention * |v @ W_O[head]|`; mean over heads. The values'
    bias is in `v`. (Kobayashi et al. 2020, Attention is Not Only a Weight; the norms of heads
    are averaged, so that heads which move a patch in opposite directions do not cancel.)

    Args:
        images: of a store with `pattern`, and `image_v`, or `v` of all tokens.
        layer: from 0, or from the end: -1 is the last.
        memory: bytes for the images that are read at once, such as "1GB".

    Returns:
        float32 `[image, patch]`, in units of the residual stream.

    Raises:
        SiteError: `pattern` or the values were not captured, or not of this layer.
        InputError: a memory budget that is no size.
    """
    w_o = _w_o(images, layer)
    # With W_O = (Q R)^T, |v @ W_O| = |v @ R^T|: d_head numbers in place of d_model.
    through = np.linalg.qr(w_o.swapaxes(1, 2)).R.swapaxes(1, 2)
    # The values as read, by heads, and as they are added; then the pattern.
    each = _pattern_bytes(images) + 3 * 4 * images.n_token * w_o.shape[0] * w_o.shape[1]
    out = _empty(images)
    for block in images.blocks(each, parse_memory(memory)):
        taken = images.taken(block)
        values = taken.values(layer)[:, 1:].swapaxes(1, 2)  # [image, head, patch, d_head]
        lengths = np.linalg.norm(values @ through, axis=-1)
        out[block] = (taken.pattern(layer)[:, :, 1:] * lengths).mean(axis=1)
    return out


def random_maps(n_image: int, n_patch: int, seed: int) -> Floats:
    """Maps that know nothing: numbers from 0 to 1, each as likely as the other.

    Returns:
        float32 `[image, patch]`, the same for a seed.
    """
    return np.random.default_rng(seed).random((n_image, n_patch), np.float32)


def _empty(images: Images) -> Floats:
    return np.empty((len(images), max(images.n_token - 1, 0)), np.float32)


def _pattern_bytes(images: Images) -> int:
    """Bytes of the attention of one token of an image in a layer."""
    store = images.store
    if "pattern" not in store.sites:  # `Images.pattern` says so
        return 1
    return 4 * store["pattern"].row_len


def _w_o(images: Images, layer: int) -> Floats:
    """What a layer's heads write with, `[head, d_head, d_model]`.

    Raises:
        SiteError: no such layer.
    """
    w_o = images.store.weights["W_O"]
    if not -len(w_o) <= layer < len(w_o):
        message = f"layer {layer} is not in {images.store.path}, whose model has {len(w_o)}"
        raise SiteError(message)
    return np.asarray(w_o[layer])


def _rolled(images: Images) -> Floats:
    """The class token's row of the product of all layers' attention, `[image, token]`."""
    site, n_token = images.store["pattern"], images.n_token
    rows = (images.row[:, None] + np.arange(n_token)).ravel()
    # From the last layer down only this row of the product is needed, not all of it.
    row = np.zeros((len(images), 1, n_token), np.float32)
    row[:, :, 0] = 1
    for layer in reversed(site.layers):
        pattern = site.read(rows=rows, layers=layer, dtype=np.float32)[..., :n_token]
        mean = pattern.mean(axis=1).reshape(len(images), n_token, n_token)
        mean += np.eye(n_token, dtype=np.float32)
        row = row @ (mean / mean.sum(axis=-1, keepdims=True))
    return row[:, 0]


def _check_all_tokens(images: Images) -> None:
    store = images.store
    if "pattern" not in store.sites or store.capture.get("positions") != "all":
        held = "does not hold" if "pattern" not in store.sites else "holds of some tokens alone"
        message = (
            f"attention rollout needs the pattern of all tokens, which {store.path} {held}: "
            "capture pattern with positions='all'."
        )
        raise SiteError(message)
    site = store["pattern"]
    missing = sorted(set(range(site.shape[1])) - set(site.layers))
    if missing:
        message = (
            f"attention rollout needs the pattern of all {site.shape[1]} layers, but "
            f"{store.path} lacks layer {missing[0]}: capture pattern with all layers."
        )
        raise SiteError(message)
