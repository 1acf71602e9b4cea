"""What a plan costs: floating-point operations of the rows that it computes, and their memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from residuum.replay.architecture import Architecture
    from residuum.replay.plan import Plan


def attention_flops(of: Architecture, n_key: float) -> float:
    """One row's q and its attention over `n_key` keys."""
    heads = of.n_head * of.d_head
    return 2.0 * of.d_model * heads + 4.0 * heads * n_key


def out_flops(of: Architecture) -> float:
    """One row's way through W_O."""
    return 2.0 * of.d_model * of.n_head * of.d_head


def mlp_flops(of: Architecture) -> float:
    """One row's way through the MLP."""
    n_matrix = 3 if of.modules["mlp_up"] else 2
    return 2.0 * n_matrix * of.d_model * of.d_mlp


def key_flops(of: Architecture) -> float:
    """One row's keys and values."""
    return 4.0 * of.d_model * of.n_kv_head * of.d_head


def plan_flops(plan: Plan, of: Architecture) -> list[float]:
    """Of each layer. The keys of cached tokens are computed once for each example."""
    examples: dict[int, int] = {}
    for run in plan.runs:
        examples[run.first_row] = max(examples.get(run.first_row, 0), run.n_token)
    cached = sum(examples.values()) * key_flops(of)
    n_key = plan.n_token / 2
    out = []
    for mixed, attn, mlp, keys in zip(plan.mixed, plan.attn, plan.mlp, plan.keys, strict=True):
        flops = float(mixed.sum()) * attention_flops(of, n_key)
        flops += float(attn.sum()) * out_flops(of) + float(mlp.sum()) * mlp_flops(of)
        if mixed.any() or keys.any():
            flops += float(keys.sum()) * key_flops(of) + cached
        out.append(flops)
    return out


def full_flops(plan: Plan, of: Architecture) -> float:
    """Of a whole pass for each run."""
    row = attention_flops(of, plan.n_token / 2) + out_flops(of) + mlp_flops(of) + key_flops(of)
    return sum(run.n_token for run in plan.runs) * of.n_layer * row


def row_bytes(of: Architecture, n_token: int) -> int:
    """What a row takes on its way through a block, about: streams, heads, MLP and scores."""
    heads = (of.n_head + 2 * of.n_kv_head) * of.d_head
    return 4 * (6 * of.d_model + 3 * heads + 3 * of.d_mlp + 4 * of.n_head * n_token)
