"""Capture a model's activations once; ask them many times."""

from residuum import query as query
from residuum._residuum import __version__
from residuum.errors import ResiduumError
from residuum.sites import Site
from residuum.store import SiteArray, Store
from residuum.store import open_store as open

__all__ = ["ResiduumError", "Site", "SiteArray", "Store", "__version__", "open"]
