"""Each analysis by its definition, in float64, one row at a time."""

import numpy as np
from analyses.tiny import EPS, IDS, N_HEAD, N_LAYER


def examples():
    """(first row, token ids) of each distinct example."""
    first = 0
    for ids in IDS:
        yield first, ids
        first += len(ids)


def targets():
    """The token that follows each row, None at the end of an example."""
    return [token for ids in IDS for token in [*ids[1:], None]]


def divisor(made, x):
    if made.model["readout"]["norm"] == "layer_norm":
        x = x - x.mean()
    return np.sqrt((x**2).mean() + EPS)


def logits(made, x):
    """The logits of one residual row: norm, then unembedding."""
    x = x.astype(np.float64)
    centred = x - x.mean() if made.model["readout"]["norm"] == "layer_norm" else x
    normed = centred / divisor(made, x) * made.weights["ln_final.w"]
    normed = normed + made.weights.get("ln_final.b", 0.0)
    return normed @ made.weights["W_U"] + made.weights["b_U"]


def log_softmax(x):
    return x - np.log(np.exp(x - x.max()).sum()) - x.max()


def component_logit(made, component, final, direction):
    """What one term of the stream adds to `direction @ logits`, the scale taken from `final`."""
    component = component.astype(np.float64)
    if made.model["readout"]["norm"] == "layer_norm":
        component = component - component.mean()
    scaled = component / divisor(made, final.astype(np.float64)) * made.weights["ln_final.w"]
    return scaled @ made.weights["W_U"] @ direction


def role_keys(role, ids, query, separators):
    """The keys that count for a role, by its words."""
    keys = range(len(ids))
    return {
        "previous_token": [j for j in keys if j == query - 1],
        "next_token": [j for j in keys if j == query + 1],
        "self": [query] if query > 0 else [],
        "first_token": [0] if query > 0 else [],
        "duplicate_token": [j for j in keys if j < query and ids[j] == ids[query]],
        "induction": [j for j in keys if 1 <= j <= query and ids[j - 1] == ids[query]],
        "separator": [j for j in keys if j != query and ids[j] in separators],
    }[role]


def role_scores(made, role, separators, *, causal):
    """Scores [layer, head], the score of even attention, and the number of queries."""
    pattern = made.sites["pattern"].astype(np.float64)
    scores, even = [], []
    for first, ids in examples():
        for query in range(len(ids)):
            n_visible = query + 1 if causal else len(ids)
            keys = [j for j in role_keys(role, ids, query, separators) if j < n_visible]
            if keys:
                scores.append(pattern[first + query][:, :, keys].sum(-1))
                even.append(len(keys) / n_visible)
    if not scores:
        return np.full((N_LAYER, N_HEAD), np.nan), np.nan, 0
    return np.mean(scores, axis=0), np.mean(even), len(scores)
