"""How recipes talk to the person at the terminal, and what they leave behind."""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from residuum.analyses.result import Result
from residuum.report import StoreCard, build
from residuum.store import Store

WIDTH = 150  # characters of a printed table


def heading(text: str) -> None:
    """A title between two sections of output."""
    print(f"\n── {text} " + "─" * max(0, 96 - len(text)), flush=True)


def show(store: Store, title: str, sql: str) -> None:
    """Print the answer to a question in SQL."""
    print(f"\n{title}", flush=True)
    store.sql(sql).show(max_rows=200, max_width=WIDTH)


def show_table(title: str, table: pa.Table) -> None:
    """Print rows that are in no store."""
    print(f"\n{title}", flush=True)
    duckdb.from_arrow(table).show(max_rows=200, max_width=WIDTH)


def report(store: Store, results: Sequence[Result], out: Path) -> None:
    """Write the page."""
    out.write_text(build(StoreCard.of(store.info()), results), encoding="utf-8")
    print(f"\n{out}")
