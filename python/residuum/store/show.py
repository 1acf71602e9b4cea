"""A store and its arrays as plain values, as text, and as HTML for notebooks."""

import html as escaping
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from residuum.store.files import tree_bytes

if TYPE_CHECKING:
    from residuum.store.site_array import SiteArray
    from residuum.store.store import Store

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def info(store: "Store") -> dict[str, Any]:
    """Plain values for `residuum info --json`."""
    return {
        "path": str(store.path),
        "format": store.attributes.get("format"),
        "commit": store.commit,
        "complete": store.complete,
        "n_example": store.n_example,
        "n_row": store.n_row,
        "rows": store.rows,
        "model": store.model,
        "capture": store.capture,
        "sites": {name: site_info(store[name]) for name in store.sites},
        "tables": {name: _table_info(store, name) for name in store.tables},
        "weights": {name: list(store.weights.shape(name)) for name in store.weights},
        "n_vocabulary": len(store.vocabulary),
        "lenses": list(store.lenses),
        "results": [
            {
                "analysis": result.analysis,
                "key": result.key,
                "tables": list(result.tables),
                "parameters": result.provenance.get("parameters"),
                "time": result.provenance.get("time"),
            }
            for result in store.results.list()
        ],
        "bytes": tree_bytes(store.path),
    }


def site_info(site: "SiteArray") -> dict[str, Any]:
    """Plain values about one site."""
    return {
        "axes": list(site.axes),
        "shape": list(site.shape),
        "dtype": site.dtype.name,
        "stored_dtype": site.stored_dtype,
        "stored_as": dtype_text(site),
        "error": None if site.error is None else site.error.to_json(),
        "layers": list(site.layers) if site.has_layers else None,
        "row_space": site.row_space,
        "chunk_rows": site.chunk_rows,
        "shard_rows": site.shard_rows,
        "nbytes": site.nbytes,
    }


def _table_info(store: "Store", name: str) -> dict[str, Any]:
    data = store.dataset(name)
    return {"rows": data.count_rows(), "columns": list(data.schema.names)}


def text(store: "Store") -> str:
    """A few lines: where, what model, how much, one line per site; the lenses."""
    lines = [
        f"Store {store.path}",
        f"  {_model(store)}",
        f"  {_amount(store)}",
    ]
    rows = _site_rows(store)
    widths = [max(len(row[i]) for row in rows) for i in range(4)] if rows else []
    lines += [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lenses = _lenses(store)
    return "\n".join([*lines, f"  {lenses}"] if lenses else lines)


def html(store: "Store") -> str:
    """The same as a small table."""
    head = f"<p><b>Store</b> {escaping.escape(str(store.path))}<br>"
    head += f"{escaping.escape(_model(store))}<br>"
    head += f"{escaping.escape(_amount(store))}</p>"
    table = _html_table(("site", "axes and lengths", "dtype", "size"), _site_rows(store))
    lenses = _lenses(store)
    return head + table + (f"<p>{escaping.escape(lenses)}</p>" if lenses else "")


def site_text(site: "SiteArray") -> str:
    """One line about a site."""
    return f"SiteArray {'  '.join(_site_row(site))}"


def site_html(site: "SiteArray") -> str:
    """One site as a small table."""
    rows = [
        ("axes and lengths", _shape(site)),
        ("layers", _ranges(site.layers) if site.has_layers else "none"),
        ("dtype", dtype_text(site)),
        ("size", size(site.nbytes)),
        ("chunk, shard", f"{site.chunk_rows}, {site.shard_rows} rows"),
    ]
    return _html_table((site.name, ""), rows)


def dtype_text(site: "SiteArray") -> str:
    """The type on disk, and what that loses: `float16`, `int8, lossy, RMS error 0.61 %`."""
    return site.stored_dtype if site.error is None else f"{site.stored_dtype}, {site.error}"


def count(n: int, noun: str) -> str:
    """A number and what is counted: `1 example`, `2,000 examples`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def size(n_bytes: int) -> str:
    """Bytes for people: `12.6 MB`; powers of 1000."""
    value, unit = float(n_bytes), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{n_bytes} B" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"


def _model(store: "Store") -> str:
    name = store.model.get("name") or "a model without name"
    family = store.model.get("family") or store.model.get("architecture")
    return f"{name} ({family})" if family else str(name)


def _amount(store: "Store") -> str:
    state = "" if store.complete else ", capture not finished"
    amount = f"{count(store.n_example, 'example')}, {count(store.n_row, 'row')}"
    return f"{amount}, commit {store.commit}{state}"


def _lenses(store: "Store") -> str:
    names = store.lenses
    return f"tuned {'lens' if len(names) == 1 else 'lenses'}: {', '.join(names)}" if names else ""


def _site_rows(store: "Store") -> list[tuple[str, str, str, str]]:
    return [_site_row(store[name]) for name in store.sites]


def _site_row(site: "SiteArray") -> tuple[str, str, str, str]:
    missing = site.has_layers and len(site.layers) < site.shape[1]
    shape = _shape(site) + (f", layers {_ranges(site.layers)}" if missing else "")
    return site.name, shape, dtype_text(site), size(site.nbytes)


def _shape(site: "SiteArray") -> str:
    return "[" + ", ".join(f"{a} {n}" for a, n in zip(site.axes, site.shape, strict=True)) + "]"


def _ranges(numbers: Sequence[int]) -> str:
    """`0-2, 5` for 0, 1, 2, 5."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    left = 'style="text-align:left"'  # notebooks have styles of their own
    cells = "".join(f"<th {left}>{escaping.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td {left}>{escaping.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
