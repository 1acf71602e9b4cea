"""The tuned lens: what the model believes at every state, through affine maps that are trained.

Belrose et al. 2023, Eliciting Latent Predictions from Transformers with the Tuned Lens, arXiv
2303.08112. The lens is trained on the store's own stream, or one that is there is taken: of the
store by its name, or a published checkpoint by its folder. It is judged on examples that it was not
trained on, beside the logit lens.

    study.py       the lens, and what it is judged on   parts.py      the parts in order
    quality.py     KL, cross-entropy, bias              trajectory.py tokens by layers
    transfer.py    translators elsewhere                depth.py      where predictions settle
    replayed.py    the model's own pass, changed        causal.py     directions taken out
    alignment.py   lens and model under that            ablation.py   blocks taken out
    gradient.py    blocks against the loss' gradient    ranks.py      statistics of ranks
    anomaly.py     odd inputs (detectors.py)

Departures: translators are float32 (the package computes them in bfloat16), the cap and factor of
logits are applied. Layers are counted as in the paper: 0 is the embedding, l enters block l, and
the last is the model's own output. `block`, SQL's layer, is the one that a state leaves.
"""

from typing import TYPE_CHECKING

from residuum.analyses.registry import Analysis, Tables
from residuum.analyses.tuned_lens.params import Params
from residuum.analyses.tuned_lens.parts import parts
from residuum.analyses.tuned_lens.study import Study, is_there, settled
from residuum.analyses.tuned_lens.tables import SPECS, tabled

if TYPE_CHECKING:
    from residuum.store import Store


def compute(store: "Store", params: Params) -> Tables:
    """Train or find the lens, then do the parts that are asked for, or all that there can be."""
    study = Study(store, params)
    made = parts(study)
    return {name: tabled(name, rows) for name, rows in made.items()}


ANALYSIS = Analysis(
    name="tuned_lens",
    version=4,
    title="Tuned lens",
    source="Belrose et al. 2023, the Tuned Lens, arXiv 2303.08112",
    params=Params,
    sites=(("resid_pre", "resid_post"), ("resid_final", "resid_post")),
    tables=SPECS,
    compute=compute,
    weights=("W_U",),
    settle=settled,
    holds=is_there,
    unasked=lambda params: params.unasked,
    trains=True,
)
run = ANALYSIS.run
