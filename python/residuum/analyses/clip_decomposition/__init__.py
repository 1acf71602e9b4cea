"""CLIP's vision tower taken apart: what heads and image patches say, in texts, and repairs.

Gandelsman, Efros and Steinhardt 2024, Interpreting CLIP's Image Representation via Text-Based
Decomposition, arXiv 2310.05916. From a store of class tokens (`z`, `resid_final`, and for patches
`pattern` and `image_v`); texts and classes are stores of the text tower.

    study.py     images, labels, texts, shares         parts.py      the parts in order
    exactness.py do the parts add up                   effect.py     direct effects of components
    ablation.py  sets replaced by their means
    textspan.py  texts of heads, their completeness    repair.py     what should not matter, removed
    heatmap.py, segment.py   image patches             retrieval.py  images by one property
    pictures.py  small copies of images for reports

The arithmetic is that of `residuum.clip`. Departures: components are centred each by itself, so
that no bias has to be shared out (`convention=even_split` does as the paper's code); TextSpan works
on covariances; heads are ranked by texts automatically, beside those that a query names.
"""

from typing import TYPE_CHECKING

from residuum.analyses.clip_decomposition.params import Params
from residuum.analyses.clip_decomposition.parts import parts
from residuum.analyses.clip_decomposition.study import NAME, Study, settled
from residuum.analyses.clip_decomposition.tables import SPECS
from residuum.analyses.registry import Analysis, Tables

if TYPE_CHECKING:
    from residuum.store import Store


def compute(store: "Store", params: Params) -> Tables:
    """Do the parts that are asked for, or all that there can be."""
    return parts(Study(store, params))


ANALYSIS = Analysis(
    name=NAME,
    version=1,
    title="CLIP decomposition",
    source="Gandelsman et al. 2024, Interpreting CLIP's Image Representation, arXiv 2310.05916",
    params=Params,
    sites=(("z",), ("resid_final", "resid_post")),
    tables=SPECS,
    compute=compute,
    weights=("W_O", "W_proj"),
    settle=settled,
    newest_first=True,
    unasked=lambda params: params.unasked,
    exact=True,  # shares sum to the image's vector: those of rounded codes would not
)
run = ANALYSIS.run
