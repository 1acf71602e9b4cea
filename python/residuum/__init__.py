"""Capture a model's activations once; ask them many times."""

from typing import TYPE_CHECKING

from residuum import analyses as analyses
from residuum import clip as clip
from residuum import lenses as lenses
from residuum import query as query
from residuum._residuum import __version__
from residuum.errors import ResiduumError
from residuum.exchange import export, import_activations
from residuum.sites import Site
from residuum.store import SiteArray, Store
from residuum.store import open_store as open

if TYPE_CHECKING:
    from residuum.capture.run import capture as capture
    from residuum.replay.opening import replay as replay
else:
    # The packages themselves can be called; unlike the functions in them, they need no torch to be
    # imported.
    from residuum import capture, replay

from residuum.replay.metrics import logit_diff
from residuum.replay.patch import Patch

__all__ = [
    "Patch",
    "ResiduumError",
    "Site",
    "SiteArray",
    "Store",
    "__version__",
    "capture",
    "export",
    "import_activations",
    "logit_diff",
    "open",
    "replay",
]
