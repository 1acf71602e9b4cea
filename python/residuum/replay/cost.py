"""What a plan costs: floating-point operations of the rows that it computes, by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from residuum.replay.architecture import Architecture
    from residuum.replay.plan import Plan


def query_flops(of: Architecture, n_key: float) -> float:
    """One row's way through a block: q, attention over `n_key` keys, W_O and MLP."""
    heads = of.n_head * of.d_head
    n_matrix = 3 if of.modules["mlp_up"] else 2
    linear = 2 * of.d_model * heads + n_matrix * of.d_model * of.d_mlp
    return 2.0 * linear + 4.0 * heads * n_key


def key_flops(of: Architecture) -> float:
    """One row's keys and values."""
    return 4.0 * of.d_model * of.n_kv_head * of.d_head


def plan_flops(plan: Plan, of: Architecture) -> list[float]:
    """Of each layer. The keys of cached tokens are computed once for each example."""
    examples: dict[int, int] = {}
    for run in plan.runs:
        examples[run.first_row] = max(examples.get(run.first_row, 0), run.n_token)
    out = []
    for queries, keys in zip(plan.queries, plan.keys, strict=True):
        if not queries.any():
            out.append(0.0)
            continue
        cached = sum(examples.values()) * key_flops(of)
        out.append(
            float(queries.sum()) * query_flops(of, plan.n_token / 2)
            + float(keys.sum()) * key_flops(of)
            + cached
        )
    return out


def full_flops(plan: Plan, of: Architecture) -> float:
    """Of a whole pass for each run."""
    row = query_flops(of, plan.n_token / 2) + key_flops(of)
    return sum(run.n_token for run in plan.runs) * of.n_layer * row
