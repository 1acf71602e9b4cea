"""What an analysis of several parts leaves out, where a store or machine lacks what they need."""

import pyarrow as pa

from residuum.analyses.registry import TableSpec
from residuum.analyses.result import column
from residuum.errors import (
    InputError,
    ModelError,
    QueryError,
    SelectionError,
    SiteError,
    StoreError,
)

MISSING = (
    SiteError,
    SelectionError,
    StoreError,
    ModelError,
    QueryError,
    InputError,
    ModuleNotFoundError,
)
"""Raised where something is missing, and not wrong."""

SKIPPED = TableSpec(
    "skipped",
    "one thing that was not computed",
    pa.schema(
        [
            column("experiment", pa.string(), "part of the study"),
            column("reason", pa.string(), "what it lacks"),
        ]
    ),
)
