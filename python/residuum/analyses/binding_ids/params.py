"""What `residuum run binding_ids` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from residuum.analyses.params import param

EXPERIMENTS = (
    "factorizability",
    "position",
    "mean_intervention",
    "cyclic",
    "transfer",
    "geometry",
    "mcq_width",
    "column_scan",
)


@dataclass(frozen=True)
class Params:
    """What to ask, and how."""

    experiments: tuple[str, ...] = param(
        (), f"which of {', '.join(EXPERIMENTS)}; none named is all that the prompts allow"
    )
    tasks: tuple[str, ...] = param((), "only prompts of these tasks; none named is all")
    prompts: int | None = param(None, "only the first so many prompts of each split", least=1)
    entity_width: int | None = param(
        None, "tokens that carry an entity; none is what the prompts say", least=1
    )
    attr_width: int | None = param(
        None, "tokens that carry an attribute; none is what the prompts say", least=1
    )
    promote_attr_keys: bool | None = param(
        None,
        "move all attribute keys to the last attribute's position where differences are added "
        "to attributes; "
        "none is: where positions are rotary",
    )
    position_by: str | None = param(
        None, "keys (rotate them) or columns (exchange them); none is by the model's positions"
    )
    position_span: int = param(10, "how far keys are moved beyond a full exchange", least=0)
    random_seeds: int = param(1, "draws of random vectors beside the mean differences", least=0)
    seed: int = param(0, "of the random vectors", least=0)
    transfer_target: str | None = param(
        None, "task that differences are carried over to; none is the first that there is"
    )
    grid: int = param(10, "points of the map of IDs along each side", least=2)
    geometry_prompts: int = param(50, "prompts of a point of the map", least=1)
    scan_prompts: int = param(100, "prompts of the column scan", least=1)
    mcq_widths: int = param(5, "most tokens of an option line that are exchanged", least=0)
    model: str | None = param(None, "folder of the captured model; none is where it lay then")
    device: str = param("cpu", "what replay computes on")
    memory: str = param("1GB", "for the rows of one batch of replays")
