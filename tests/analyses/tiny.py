"""A small residual stream whose parts are known, as arrays and as a store.

3 layers, 5 heads, d_head 7, d_model 11, a vocabulary of 13; examples of 6, 1, 4 and 6 tokens, the
last a repeat of the first, so that it shares its rows.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from residuum.sites import Site
from residuum.store import ArrayPlan, Store, StoreWriter

N_LAYER, N_HEAD, D_HEAD, D_MODEL, D_VOCAB = 3, 5, 7, 11, 13
EPS = 1e-5
IDS = [[3, 5, 3, 5, 0, 3], [2], [7, 7, 12, 1]]
EXAMPLES = [0, 1, 2, 0]  # which text each example is
VOCABULARY = ["<eos>", *(f" w{i}" for i in range(1, D_VOCAB))]
N_ROW = sum(map(len, IDS))
N_KEY = max(map(len, IDS))


@dataclass(frozen=True)
class Tiny:
    """What a capture of the stream would hold: float32 arrays by site, weights, tables."""

    sites: dict
    weights: dict
    model: dict
    examples: pa.Table
    tokens: pa.Table


def tiny(norm="layer_norm", *, causal=True, seed=0) -> Tiny:
    """Random parts that add up: embed + heads + b_O + mlp_out, layer by layer."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    weights = {
        "W_U": draw(D_MODEL, D_VOCAB),
        "b_U": draw(D_VOCAB),
        "W_O": draw(N_LAYER, N_HEAD, D_HEAD, D_MODEL) / 3,
        "b_O": draw(N_LAYER, D_MODEL),
        "ln_final.w": draw(D_MODEL),
    }
    if norm == "layer_norm":
        weights["ln_final.b"] = draw(D_MODEL)
    embed, z = draw(N_ROW, D_MODEL), draw(N_ROW, N_LAYER, N_HEAD, D_HEAD)
    mlp_out = draw(N_ROW, N_LAYER, D_MODEL)
    attn_out = np.einsum("rlhd,lhdm->rlm", z, weights["W_O"]) + weights["b_O"]
    resid_post = embed[:, None] + np.cumsum(attn_out + mlp_out, axis=1)
    sites = {
        "embed": embed,
        "z": z,
        "mlp_out": mlp_out,
        "resid_post": resid_post.astype(np.float32),
        "resid_final": resid_post[:, -1].astype(np.float32),
        "pattern": _pattern(rng, causal=causal),
    }
    readout = {"norm": norm, "eps": EPS, "norm_offset": 0.0, "logit_scale": 1.0}
    readout |= {"logit_softcap": None, "post_norm": False, "parallel": False}
    model = {"name": "tiny", "n_layer": N_LAYER, "readout": readout, "causal": causal}
    return Tiny(sites, weights, model, _examples(), _tokens())


def write(made: Tiny, path, *, layers=None) -> Store:
    """Put it on disk; `layers` limits what is captured of each site, as {"z": [0, 2]}."""
    chosen = {name: (layers or {}).get(name, list(range(N_LAYER))) for name in made.sites}
    plans = [_plan(name, array, chosen[name]) for name, array in made.sites.items()]
    capture = {"text_column": "text"}
    with StoreWriter.create(path, model=made.model, capture=capture, arrays=plans) as writer:
        runs = np.array([[0, 0, N_ROW]])
        for name, array in made.sites.items():
            if not Site(name).has_layers:
                writer.write(name, None, array, runs)
                continue
            for layer in chosen[name]:
                writer.write(name, layer, array[:, layer], runs)
        ids = [[*ids[1:], -1] for ids in IDS]
        writer.write_target(np.concatenate(ids).astype(np.int32), runs)
        writer.add_examples(made.examples)
        writer.add_tokens(made.tokens)
        writer.commit(complete=True)
        writer.write_weights(made.weights)
        writer.write_vocabulary(VOCABULARY)
    return Store(path)


def _plan(name, array, layers):
    if not Site(name).has_layers:
        return ArrayPlan(Site(name), None, [], array.shape[1:], "float32")
    return ArrayPlan(Site(name), N_LAYER, layers, array.shape[2:], "float32")


def _pattern(rng, *, causal):
    pattern = np.zeros((N_ROW, N_LAYER, N_HEAD, N_KEY), np.float32)
    row = 0
    for ids in IDS:
        for token in range(len(ids)):
            n_visible = token + 1 if causal else len(ids)
            scores = np.exp(rng.normal(size=(N_LAYER, N_HEAD, n_visible)))
            pattern[row, :, :, :n_visible] = scores / scores.sum(-1, keepdims=True)
            row += 1
    return pattern


def _examples():
    first = np.concatenate([[0], np.cumsum([len(ids) for ids in IDS])])
    return pa.table(
        {
            "example": pa.array(range(len(EXAMPLES)), pa.int64()),
            "n_token": pa.array([len(IDS[i]) for i in EXAMPLES], pa.int32()),
            "n_row": pa.array([len(IDS[i]) for i in EXAMPLES], pa.int32()),
            "first_row": pa.array([first[i] for i in EXAMPLES], pa.int64()),
            "example_row": pa.array([None] * len(EXAMPLES), pa.int64()),
            "content_hash": [str(i) for i in EXAMPLES],
            "text": ["".join(VOCABULARY[t] for t in IDS[i]) for i in EXAMPLES],
        }
    )


def _tokens():
    rows = []
    first = np.concatenate([[0], np.cumsum([len(ids) for ids in IDS])]).tolist()
    for example, which in enumerate(EXAMPLES):
        end = 0
        for token, token_id in enumerate(IDS[which]):
            text = VOCABULARY[token_id]
            start, end = end, end + len(text)
            row = first[which] + token
            rows.append((example, token, row, token_id, text, start, end))
    names = ("example", "token", "row", "token_id", "text", "char_start", "char_end")
    kinds = (pa.int64(), pa.int32(), pa.int64(), pa.int32(), pa.string(), pa.int32(), pa.int32())
    columns = zip(zip(*rows, strict=True), kinds, strict=True)
    return pa.table(dict(zip(names, (pa.array(c, k) for c, k in columns), strict=True)))
