"""The parts of the study: those that are asked for, or all that the store and texts allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from residuum.analyses.clip_decomposition.ablation import ablation
from residuum.analyses.clip_decomposition.effect import effect
from residuum.analyses.clip_decomposition.exactness import exactness
from residuum.analyses.clip_decomposition.heatmap import heatmap
from residuum.analyses.clip_decomposition.params import EXPERIMENTS
from residuum.analyses.clip_decomposition.pictures import pictures
from residuum.analyses.clip_decomposition.repair import Repair
from residuum.analyses.clip_decomposition.retrieval import Retrieval
from residuum.analyses.clip_decomposition.segment import segment
from residuum.analyses.clip_decomposition.tables import SPECS, tabled
from residuum.analyses.clip_decomposition.textspan import TextSpan
from residuum.analyses.skipped import MISSING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import pyarrow as pa

    from residuum.analyses.clip_decomposition.study import Study

    Rows: TypeAlias = Iterable[Mapping[str, Any]]


def parts(study: Study) -> dict[str, pa.Table]:
    """Every table.

    Raises:
        ResiduumError: what a part needs is missing, and the part was asked for by its name.
    """
    tables = {spec.name: tabled(spec.name, []) for spec in SPECS}
    skipped: list[Mapping[str, Any]] = []
    made = _made(study, tables)
    for name in EXPERIMENTS:
        if not study.wants(name):
            continue
        try:
            found = {table: tabled(table, rows()) for table, rows in made[name].items()}
        except MISSING as error:
            if study.params.experiments is not None:
                raise
            skipped.append({"experiment": name, "reason": str(error)})
        else:
            tables.update(found)
    return tables | {"skipped": tabled("skipped", [*skipped, *study.left_out])}


def _made(study: Study, tables: Mapping[str, pa.Table]) -> dict[str, dict[str, Callable[[], Rows]]]:
    """How the tables of each part are made; what several need is made once.

    `tables` are those that are there by the time a part is made.
    """
    spans, repair, retrieval = TextSpan(study), Repair(study), Retrieval(study)
    return {
        "exactness": {"exactness": lambda: exactness(study)},
        "effect": {"effect": lambda: effect(study)},
        "ablation": {"ablation": lambda: ablation(study)},
        "textspan": {"textspan": spans.rows},
        "textspan_accuracy": {"textspan_accuracy": spans.accuracy},
        "top_images": {"top_images": spans.top},
        "repair": {"groups": repair.groups, "repair": repair.summary},
        "retrieval": {"retrieval": lambda: retrieval.rows, "similar": retrieval.similar},
        "heatmap": {"heatmap": lambda: heatmap(study, spans)},
        "segment": {"segment": lambda: segment(study)},
        "pictures": {"pictures": lambda: pictures(study, tables)},
    }
