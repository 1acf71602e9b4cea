"""A result -> sections of the page.

The module of this package that has the analysis' name makes them; a result without such a module is
shown as its tables, so that a new analysis has a report before it has charts.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from residuum.analyses.result import Result, html_table
from residuum.report.charts import Chart

TABLE_ROWS = 50


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph, charts side by side, and trusted HTML below them."""

    title: str
    text: str
    charts: Sequence[Chart] = field(default_factory=tuple)
    html: str = ""


def sections(result: Result) -> list[Section]:
    """The sections that show a result."""
    name = f"residuum.report.{result.analysis}"
    if importlib.util.find_spec(name) is None:
        return tables(result)
    made: list[Section] = importlib.import_module(name).sections(result)
    return made


def tables(result: Result) -> list[Section]:
    """Every table's first rows."""
    return [
        Section(name, f"{min(TABLE_ROWS, t.num_rows):,} of {t.num_rows:,} rows.", html=scroll(t))
        for name, t in result.items()
    ]


def scroll(table: pa.Table, rows: int = TABLE_ROWS) -> str:
    """A table that scrolls sideways in its own box."""
    return f'<div class="scroll" tabindex="0">{html_table(table.slice(0, rows))}</div>'


def fold(table: pa.Table, title: str) -> str:
    """A table behind a heading that opens it, and says where the table is cut."""
    n = table.num_rows
    more = f" (the first {TABLE_ROWS} of {n:,})" if n > TABLE_ROWS else ""
    return f"<details><summary>{title}{more}</summary>{scroll(table)}</details>"
