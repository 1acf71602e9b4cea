"""Results as the analyses make them, with made-up values and awkward tokens."""

import numpy as np
import pyarrow as pa

from residuum.analyses.result import Result
from residuum.report import StoreCard

WORDS = [" the", "</script>", "\n", " internationalisation", "&amp;", " cat", "(", "ß "]
ROLES = ("previous_token", "self", "first_token", "duplicate_token", "induction", "separator")

CARD = StoreCard(
    "a <b>run</b>.residuum",
    {"Model": "tiny", "Tokens": "126"},
    [{"site": "z", "shape": "126 x 3 x 5 x 7", "dtype": "float16", "size": "26 kB"}],
)


def logit_lens(n_example=2, n_token=6, n_layer=3):
    rng = np.random.default_rng(0)
    rows, row = [], 0
    for example in range(n_example):
        ids = rng.integers(len(WORDS), size=n_token + example if n_token > 1 else 1)
        for token, at in enumerate(ids):
            target = int(ids[token + 1]) if token + 1 < len(ids) else None
            for layer in range(n_layer):
                top = int(rng.integers(len(WORDS)))
                p = float(rng.random())
                rows.append(
                    {
                        "row": row,
                        "layer": layer,
                        "example": example,
                        "token": token,
                        "text": WORDS[at],
                        "top_id": top,
                        "top_text": WORDS[top],
                        "top_probability": p,
                        "entropy": 2 * (1 - p),
                        "kl_to_final": float("nan") if row == 0 else float(n_layer - 1 - layer),
                        "target_id": target,
                        "target_text": None if target is None else WORDS[target],
                        "target_rank": None if target is None else 3,
                        "target_logprob": None if target is None else -1.5,
                    }
                )
            row += 1
    summary = [
        {
            "layer": layer,
            "n": row,
            "entropy": 2.0 - layer / n_layer,
            "kl_to_final": float(n_layer - 1 - layer),
            "top_is_final": (layer + 1) / n_layer,
            "n_target": row - n_example,
            "cross_entropy": 3.0 if row > n_example else None,
            "top_is_target": 0.2 if row > n_example else None,
            "target_rank_median": 4.0 if row > n_example else None,
        }
        for layer in range(n_layer)
    ]
    tables = {"trajectory": pa.Table.from_pylist(rows), "top": pa.table({"row": [0]})}
    tables["summary"] = pa.Table.from_pylist(summary)
    return _result("logit_lens", "Logit lens", {"layers": None, "k": 5}, tables)


def head_attribution(n_layer=3, n_head=5):
    rng = np.random.default_rng(1)
    heads = [
        {"layer": layer, "head": head, "n": 9, "mean": float(rng.normal()), "std": 0.5}
        for layer in range(n_layer)
        for head in range(n_head)
    ]
    parts = [{"component": "embedding", "kind": "embedding", "layer": None}]
    for layer in range(n_layer):
        parts += [
            {"component": f"L{layer} {kind}", "kind": kind, "layer": layer}
            for kind in ("heads", "attention bias", "MLP")
        ]
    parts = [{**part, "n": 9, "mean": float(rng.normal()), "std": 0.1} for part in parts]
    logits = {"row": [0, 1], "difference": [1e-6, -2e-6]}
    tables = {
        "heads": pa.Table.from_pylist(heads),
        "components": pa.Table.from_pylist(parts),
        "logits": pa.table(logits),
        "tokens": pa.table({"row": pa.array([], pa.int64())}),
    }
    return _result("head_attribution", "Head attribution", {"to": (), "minus": ()}, tables)


def attention_roles(n_layer=3, n_head=5):
    rng = np.random.default_rng(2)
    rows = [
        {
            "layer": layer,
            "head": head,
            "role": role,
            "score": None if role == "separator" else float(rng.random()),
            "uniform": None if role == "separator" else 0.2,
            "n": 0 if role == "separator" else 9,
        }
        for role in ROLES
        for layer in range(n_layer)
        for head in range(n_head)
    ]
    tables = {"heads": pa.Table.from_pylist(rows)}
    return _result("attention_roles", "Attention roles", {"separators": ()}, tables)


def clusters(k=4, *, tokens=True):
    sizes = [
        {
            "cluster": i,
            "size": max(1, 10 - i),
            "mean_distance": 1.0,
            "inertia": 2.0,
            "inertia_share": 1 / k,
        }
        for i in range(k)
    ]
    nearest = [
        {
            "cluster": cluster,
            "rank": rank,
            "distance": 0.5 + rank,
            "row": rank,
            "example": rank,
            "token": 5 if tokens else None,
            "before": "before <i>" if tokens else None,
            "text": " cat" if tokens else "A whole <i>sentence</i>.",
            "after": " after" if tokens else None,
        }
        for cluster in range(k)
        for rank in range(3)
    ]
    tables = {
        "clusters": pa.Table.from_pylist(sizes),
        "assignments": pa.table({"row": [0]}),
        "nearest": pa.Table.from_pylist(nearest),
    }
    return _result("clusters", "Clusters", {"site": "resid_post", "layer": 2, "head": None}, tables)


def everything():
    return [logit_lens(), head_attribution(), attention_roles(), clusters()]


def _result(name, title, parameters, tables):
    return Result(name, parameters, tables, {"title": title, "source": "made up", "commit": 3})
