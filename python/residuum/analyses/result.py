"""What an analysis returns: named Arrow tables, their parameters and where they come from.

`Result` is frozen and knows nothing of stores, so that a report needs no store either. Columns
carry unit and meaning in the Arrow field's metadata; `unit` and `meaning` read them.
"""

import html
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from residuum.store.show import count

PREVIEW_ROWS = 8


def column(name: str, kind: pa.DataType, meaning: str, *, unit: str = "") -> pa.Field:
    """An Arrow field that carries its meaning and unit."""
    metadata = {"meaning": meaning} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, metadata=metadata)


def unit(table: pa.Table, name: str) -> str:
    """The unit of a column, or an empty string."""
    return _note(table.schema.field(name), b"unit")


def meaning(table: pa.Table, name: str) -> str:
    """What a column holds, or an empty string."""
    return _note(table.schema.field(name), b"meaning")


def _note(of: pa.Field, key: bytes) -> str:
    return str((of.metadata or {}).get(key, b"").decode())


@dataclass(frozen=True)
class Result(Mapping[str, pa.Table]):
    """The tables of one analysis; `result["heads"]` is a `pyarrow.Table`."""

    analysis: str
    parameters: Mapping[str, Any]
    tables: Mapping[str, pa.Table]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Freeze the mappings too."""
        for name in ("parameters", "tables", "provenance"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __getitem__(self, name: str) -> pa.Table:
        """A table by name; the error lists the names."""
        if name not in self.tables:
            have = ", ".join(self.tables)
            message = f"{self.analysis} has no table {name!r}; it has {have}"
            raise KeyError(message)
        return self.tables[name]

    def __iter__(self) -> Iterator[str]:
        """The names of the tables."""
        return iter(self.tables)

    def __len__(self) -> int:
        """The number of tables."""
        return len(self.tables)

    @property
    def title(self) -> str:
        """A heading for people."""
        return str(self.provenance.get("title", self.analysis.replace("_", " ")))

    def __repr__(self) -> str:
        """One line per table."""
        shown = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        lines = [f"Result {self.analysis}({shown})"]
        for name, table in self.tables.items():
            columns = ", ".join(table.column_names)
            lines.append(f"  {name}: {count(table.num_rows, 'row')}; {columns}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """All rows as plain Python values, for `--json`."""
        return {
            "analysis": self.analysis,
            "parameters": json.loads(json.dumps(dict(self.parameters))),
            "provenance": dict(self.provenance),
            "tables": {name: table.to_pylist() for name, table in self.tables.items()},
        }

    def _repr_html_(self) -> str:
        """The first rows of every table, for notebooks."""
        shown = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        parts = [f"<p><b>{html.escape(self.analysis)}</b>({html.escape(shown)})</p>"]
        for name, table in self.tables.items():
            parts.append(f"<p>{html.escape(name)}: {count(table.num_rows, 'row')}</p>")
            parts.append(html_table(table.slice(0, PREVIEW_ROWS)))
        return "".join(parts)


def html_table(table: pa.Table) -> str:
    """A plain HTML table of all rows; the numbers of a column have the same decimals."""
    head = "".join(_heading(table, name) for name in table.column_names)
    columns = [_cells(table, name) for name in table.column_names]
    rows = "".join(f"<tr>{''.join(row)}</tr>" for row in zip(*columns, strict=True))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _heading(table: pa.Table, name: str) -> str:
    of = unit(table, name)
    text = html.escape(f"{name} ({of})" if of else name)
    return f'<th style="text-align:{_side(table, name)}">{text}</th>'


def _cells(table: pa.Table, name: str) -> list[str]:
    values = table.column(name).to_pylist()
    form = _format(table, name, values)
    texts = ["" if value is None else html.escape(format(value, form)) for value in values]
    return [f'<td style="text-align:{_side(table, name)}">{text}</td>' for text in texts]


def _side(table: pa.Table, name: str) -> str:
    """Where a column is aligned; notebooks have styles of their own, so that cells must say."""
    kind = table.schema.field(name).type
    return "right" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else "left"


def _format(table: pa.Table, name: str, values: list[Any]) -> str:
    """Four digits of a column's largest number; counts, which have a unit, with separators."""
    kind = table.schema.field(name).type
    if pa.types.is_integer(kind):
        return "," if unit(table, name) else "d"
    if not pa.types.is_floating(kind):
        return ""
    finite = [abs(value) for value in values if value is not None and math.isfinite(value)]
    largest = max(finite, default=0.0)
    if not 1e-3 <= largest < 1e9:
        return ".4g"
    if all(value.is_integer() for value in finite):
        return ".0f"
    return f"z.{max(0, 3 - math.floor(math.log10(largest)))}f"
