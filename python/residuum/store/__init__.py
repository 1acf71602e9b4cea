"""Create, append to, open and verify a store. Knows shapes, not models.

StoreWriter ──▶ folder ──▶ Store ──▶ SiteArray
(writer.py)               (store.py)  (site_array.py)
"""

from residuum.store.lossy import StoredError
from residuum.store.plan import ArrayPlan
from residuum.store.results import Results, StoredResult, key_of
from residuum.store.site_array import SiteArray
from residuum.store.statistics import SiteStatistics
from residuum.store.store import Store, open_store
from residuum.store.verify import Problem, VerifyReport, verify
from residuum.store.writer import StoreWriter

__all__ = [
    "ArrayPlan",
    "Problem",
    "Results",
    "SiteArray",
    "SiteStatistics",
    "Store",
    "StoreWriter",
    "StoredError",
    "StoredResult",
    "VerifyReport",
    "key_of",
    "open_store",
    "verify",
]
