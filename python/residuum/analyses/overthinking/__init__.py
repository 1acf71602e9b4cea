"""Overthinking the truth: where inside a model do wrong demonstrations make it answer wrongly?

Halawi, Denain and Steinhardt 2023, Overthinking the Truth: Understanding how Language Models
Process False Demonstrations, arXiv 2307.09476 (ICLR 2024). The store holds pairs of few-shot
prompts (`residuum.prompts.demonstrations`) that share inputs, order and query, with true and with
false labels.

    demos.py      characters ▶ tokens and rows       lens.py      states ▶ label probabilities
    tasks.py      pairs as arrays                    metrics.py   probabilities ▶ right or wrong
    curves.py     accuracy by state and demo         turning.py   critical layers, early exit
    matching.py   prefix-matching heads, in SQL      controls.py  random heads
    cases.py      what is ablated                    ablations.py the replays, and what they give
    copying.py    labels through W_V and W_O         study.py     the parts in order

Departures from the paper's code, each with its option: the last state is normed once
(`reference_double_norm`), heads and attention are ablated by zero `z` (`kind=uniform_qkv`), MLPs
without their output bias (`mlp_bias`). Random heads are drawn from those that there are.
"""

from typing import TYPE_CHECKING

import pyarrow as pa

from residuum.analyses.overthinking.demos import COLUMNS
from residuum.analyses.overthinking.params import EXPERIMENTS, Params, checked
from residuum.analyses.overthinking.study import Study, done
from residuum.analyses.overthinking.tables import DEMOS, SPECS
from residuum.analyses.registry import Analysis, Tables

if TYPE_CHECKING:
    from residuum.store import Store


def compute(store: "Store", params: Params) -> Tables:
    """Do the parts that are asked for, or all that the store allows."""
    study = Study(store, params)
    schemas = {spec.name: spec.schema for spec in SPECS}
    tables = {"demos": study.demos.cast(DEMOS.schema)}
    for name in EXPERIMENTS:
        tables[name] = pa.Table.from_pylist(done(study, name), schemas[name])
    tables["skipped"] = pa.Table.from_pylist(study.skipped, schemas["skipped"])
    return tables


ANALYSIS = Analysis(
    name="overthinking",
    version=1,
    title="Overthinking the truth",
    source="Halawi, Denain and Steinhardt 2023, Overthinking the Truth, arXiv 2307.09476",
    params=Params,
    sites=(("resid_post", "resid_pre"),),
    columns=COLUMNS,
    tables=SPECS,
    compute=compute,
    weights=("W_U",),
    settle=lambda _store, params: checked(params),
)
run = ANALYSIS.run
