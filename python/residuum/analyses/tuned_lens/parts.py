"""The parts of the study: those that are asked for, or all that store and machine allow."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from residuum.analyses.skipped import MISSING
from residuum.analyses.tuned_lens.ablation import ablation
from residuum.analyses.tuned_lens.anomaly import anomaly
from residuum.analyses.tuned_lens.causal import Causal, fidelity
from residuum.analyses.tuned_lens.depth import difficulty
from residuum.analyses.tuned_lens.gradient import gradient
from residuum.analyses.tuned_lens.params import EXPERIMENTS
from residuum.analyses.tuned_lens.quality import lens_transfer
from residuum.analyses.tuned_lens.replayed import Replayed
from residuum.analyses.tuned_lens.study import PASSING
from residuum.analyses.tuned_lens.tables import tabled
from residuum.analyses.tuned_lens.trajectory import trajectory
from residuum.analyses.tuned_lens.transfer import covariance, transfer
from residuum.errors import InputError

OF_OWN_STATES = ("trajectory", "transfer", "causal_basis", "alignment", "anomaly")
"""Parts that put a token's own states through the lens, however it was trained."""

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import pyarrow as pa

    from residuum.analyses.tuned_lens.study import Study

    Rows: TypeAlias = pa.Table | Iterable[Mapping[str, Any]]


class _Parts:
    """What several parts share is made once."""

    def __init__(self, study: Study) -> None:
        self.study = study

    @cached_property
    def replayed(self) -> Replayed:
        """The examples that are replayed."""
        return Replayed(self.study)

    @cached_property
    def causal(self) -> Causal:
        """Bases and alignment, which share replays."""
        return Causal(self.study, self.replayed)

    def made(self) -> dict[str, Callable[[], Rows]]:
        """How each part is made."""
        study = self.study
        return {
            "quality": lambda: study.passed["quality"].made(),
            "depth": lambda: study.passed["depth"].made(),
            "trajectory": lambda: trajectory(study),
            "transfer": lambda: transfer(study),
            "covariance": lambda: covariance(study),
            "causal_basis": lambda: self.causal.basis,
            "alignment": lambda: self.causal.aligned,
            "ablation": lambda: ablation(study, self.replayed),
            "gradient": lambda: gradient(study, self.replayed),
            "anomaly": lambda: anomaly(study),
        }


def _refuse_shuffled(study: Study, name: str) -> None:
    """A lens that learnt from other tokens' states means nothing on a token's own.

    Raises:
        InputError: a part that would put these through it.
    """
    if study.partner is not None and name in OF_OWN_STATES:
        message = (
            f"{study.own_name} was trained on shuffled states, a control of "
            f"{' and '.join(PASSING)} alone: {name} would put a token's own states through it"
        )
        raise InputError(message)


def parts(study: Study) -> dict[str, Rows]:
    """The rows of every table.

    Raises:
        ResiduumError: what a part needs is missing, and the part was asked for by its name.
    """
    made = _Parts(study).made()
    skipped: list[Mapping[str, Any]] = []
    tables: dict[str, pa.Table] = {}
    for name in EXPERIMENTS:
        tables[name] = tabled(name, [])
        if not study.wants(name):
            continue
        try:
            _refuse_shuffled(study, name)
            tables[name] = tabled(name, made[name]())
        except MISSING as error:
            if study.params.experiments is not None:
                raise
            skipped.append({"experiment": name, "reason": str(error)})
    return {
        "losses": study.losses,
        **tables,
        "lens_transfer": lens_transfer(study, tables["quality"].to_pylist()),
        "difficulty": difficulty(study, tables["depth"]),
        "fidelity": fidelity(study, tables["causal_basis"]),
        "skipped": skipped,
    }
