"""A tiny CLIP's stores for tests of the analysis, and what their tables are by definition."""

import io

import numpy as np
import PIL.Image
import pytest

import residuum

SITES = ["embed", "z", "mlp_out", "resid_final", "pattern", "image_v", "pooled"]
N_IMAGE, N_LAYER, N_HEAD, D_EMBED, SIDE = 53, 3, 5, 11, 12
TWINS = {50: 3, 51: 3, 52: 7}
"""Images that are others once more."""
CLASSES = ("w3", "w4", "w5")
PLACES = ("left", "right")
SAID = [f"w{a} w{b}" for a in range(3, 12) for b in range(3, 7)]
PROMPTS = {"text": ["w3", "w4 w1", "w4 w2", "w5"], "class": ["w3", "w4", "w4", "w5"]}
REPAIR = {"group": "place", "cues": ("w3 w3", "w9 w4"), "n_remove": 4, "random_draws": 6}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32, sums of 35 terms of size 1


def png(pixels):
    kept = io.BytesIO()
    PIL.Image.fromarray(pixels).save(kept, "PNG")
    return kept.getvalue()


def directions(texts, classes):
    """Unit vectors of the pool and of classes, in float64."""
    unit = [
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for vectors in (store["pooled"][:].astype(np.float64) for store in (texts, classes))
    ]
    means = np.stack([unit[1][[0]].mean(0), unit[1][[1, 2]].mean(0), unit[1][[3]].mean(0)])
    return {"pool": unit[0], "classes": means / np.linalg.norm(means, axis=1, keepdims=True)}


def written_out(store):
    """What each component adds to each image's vector `[image, d_embed]`, by its definition.

    And what class tokens add by looking at themselves, and the constant `[d_embed]`.
    """
    read = store.examples.to_table(columns=["first_row", "example_row"])
    row, image = read["first_row"].to_numpy(), read["example_row"].to_numpy()
    weights = {name: np.asarray(value, np.float64) for name, value in store.weights.items()}
    final = store["resid_final"][:][row].astype(np.float64)
    sigma = np.sqrt(final.var(axis=1) + store.model["readout"]["eps"])

    def said(parts):
        centred = parts - parts.mean(axis=1, keepdims=True)
        return centred * weights["ln_final.w"] / sigma[:, None] @ weights["W_proj"]

    z = store["z"][:][row].astype(np.float64)  # [image, layer, head, d_head]
    mlp, embed = store["mlp_out"][:][row], store["embed"][:][row]
    looks = store["pattern"][:][row].astype(np.float64)[..., 0]  # [image, layer, head]
    own = looks[..., None] * store["image_v"][:][image].astype(np.float64)[:, :, 0]
    parts, to_itself = {"embedding": said(embed)}, 0.0
    for layer in range(N_LAYER):
        w_o = weights["W_O"][layer]
        for head in range(N_HEAD):
            parts[f"L{layer}H{head}"] = said(z[:, layer, head] @ w_o[head])
            to_itself = to_itself + said(own[:, layer, head] @ w_o[head])
        bias = np.broadcast_to(weights["b_O"][layer], final.shape)
        parts[f"L{layer} attention bias"] = said(bias)
        parts[f"L{layer} MLP"] = said(mlp[:, layer])
    constant = weights["ln_final.b"] @ weights["W_proj"]
    return {"parts": parts, "own": to_itself, "constant": constant, "row": row}


def run(made, *experiments, **params):
    """The tables of some parts, or of all that there can be."""
    return residuum.analyses.run(
        "clip_decomposition", made.store, **params, experiments=experiments or None
    )


def heads(made):
    """Of all heads, `[image, layer, head, d_embed]`."""
    every = [made.parts[f"L{la}H{head}"] for la in range(N_LAYER) for head in range(N_HEAD)]
    return np.stack(every, 1).reshape(N_IMAGE, N_LAYER, N_HEAD, D_EMBED)


def total(made):
    return sum(made.parts.values()) + made.constant


def spread(vectors):
    """Variance over all directions."""
    return vectors.var(axis=0).sum()


def assert_same_rows(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for key, value in one.items():
            if isinstance(value, float):
                assert other[key] == pytest.approx(value, rel=1e-4, abs=1e-5), (one, other)
            else:
                assert other[key] == value
