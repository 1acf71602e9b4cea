"""What an imported store says of its model and its making."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residuum.sites import Site

if TYPE_CHECKING:
    from residuum.exchange.importing import Import


def model(job: Import) -> dict[str, Any]:
    """What is known of a model of which only activations are there: their lengths."""
    lengths: dict[str, int] = {}
    for site, laid in job.sites.items():
        names = [name for name in site.axes if name != "layer"]
        lengths |= dict(zip(names, laid[0].inner, strict=True))
    axes = {"head": "n_head", "kv_head": "n_kv_head"}
    known = {axes.get(name, name): n for name, n in lengths.items() if name not in ("key", "norm")}
    return {
        "name": job.options.model_name,
        "revision": None,
        "family": None,
        "kind": None,
        "architecture": None,
        "n_layer": job.n_layer or None,
        **known,
        "config": {},
        "weights_hash": None,
    }


def capture(job: Import, *, text: bool) -> dict[str, Any]:
    """How the store was made, in the place of a capture's settings.

    `text` says whether its examples have a text of their own.
    """
    options = job.options
    sources = [
        {
            "site": one.site.value,
            "layers": list(one.layers) or None,
            "from": Path(one.part.what).name,
            "shape": list(one.part.array.shape),
            "dtype": one.part.array.dtype.name,
        }
        for laid in job.sites.values()
        for one in laid
    ]
    kinds = {dtype.name for site, dtype in job.dtypes.items() if site is not Site.NORM_SCALE}
    return {
        "sites": [site.value for site in job.sites],
        "layers": sorted({n for laid in job.sites.values() for one in laid for n in one.layers}),
        "positions": "imported",
        "keys": "all",
        "dtype": kinds.pop() if len(kinds) == 1 else None,
        "shard_rows": options.shard_rows,
        "chunk_rows": options.chunk_rows,
        "codec": options.codec,
        "text_column": "text" if text else None,
        "imported": {
            "arrays": sources,
            "table": None if job.table is None else Path(job.table).name,
            "residuum": version("residuum"),
        },
    }
