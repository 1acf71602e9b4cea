"""Binding IDs: how does a model know which attribute belongs to which entity?

The claim of Feng and Steinhardt: slot k's entity and attribute both carry, beside their content, an
ID of the slot, added on; a query finds the attribute whose ID is that of its entity. What is made
here is evidence for or against that, not proof: later work finds mixtures of mechanisms where there
are many entities (arXiv 2510.06182, 2409.05448; to be checked).

    store ─lookup─▶ Prompts ─┐
    store, model ─replay─▶ Captured (a Subject) ─▶ experiments ─▶ tables
                             └─ deltas (means over prompts)

    swaps.py (B1)  position.py (B2)  means.py (B3, B4, B5)  geometry.py (B6)  options.py (B8)
    scan.py (which column is an answer read from?)  slots.py (from the store alone)
    ONEHOP prompts go through B1 to B4 like any other (B7).

Experiments know a `Subject` only, a thing that scores prompts under interventions, so that they
can be tried on mechanisms made by hand. Departures from the reference: the same-item estimator for
every slot (by rotating as often as needed); in B5 a source's slot 0 keeps the target's own ID,
where the reference takes the source's second to fourth.
"""

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from safetensors import safe_open

from residuum.analyses.binding_ids.captured import Captured
from residuum.analyses.binding_ids.experiments import Study
from residuum.analyses.binding_ids.experiments import run as run_experiments
from residuum.analyses.binding_ids.lookup import COLUMNS, prompts_of
from residuum.analyses.binding_ids.params import Params
from residuum.analyses.binding_ids.tables import TABLES
from residuum.analyses.registry import Analysis, Tables

if TYPE_CHECKING:
    from residuum.store import Store


def compute(store: "Store", params: Params) -> Tables:
    """Run the experiments on all prompts of the store."""
    groups = [group.first(params.prompts) for group in prompts_of(store, params)]
    subject = Captured(store, params.model, device=params.device, memory=params.memory)
    made = run_experiments(Study(subject, groups, params, _model(store, params.model)))
    return {
        table.name: pa.Table.from_pylist(made.get(table.name, []), table.schema) for table in TABLES
    }


def _model(store: "Store", folder: str | None) -> dict[str, Any]:
    """Name, family and number of weights; the model's folder is there, as replay has read it."""
    n_params = 0
    for file in Path(folder or store.capture["model_folder"]).glob("*.safetensors"):
        with safe_open(file, "numpy") as tensors:
            names = tensors.keys()
            n_params += sum(prod(tensors.get_slice(name).get_shape()) for name in names)
    return {
        "model": store.model.get("name"),
        "family": store.model.get("family"),
        "n_params": n_params,
    }


ANALYSIS = Analysis(
    name="binding_ids",
    version=1,
    title="Binding IDs",
    source="Feng and Steinhardt 2023, How do Language Models Bind Entities in Context?, "
    "arXiv 2310.17191",
    params=Params,
    sites=(("resid_pre", "embed"), ("resid_pre", "resid_post"), ("resid_final", "resid_post")),
    tables=TABLES,
    columns=COLUMNS,
    compute=compute,
)
run = ANALYSIS.run
