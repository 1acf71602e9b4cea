"""k-means on any site, layer and head, and what lies nearest to each centre.

Lloyd's iterations from k-means++ starts (Arthur and Vassilvitskii 2007), the best of several; the
distance is Euclidean in the site's own space, of rows as stored. A whole layer is read within the
kernel's budget (see `kernels.site_kmeans`); one head, or a sample of rows, is held in memory. Rows
with NaN or infinity belong to no cluster and are left out.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from residuum import kernels
from residuum.analyses.params import param
from residuum.analyses.passages import Passage, example_passages, token_passages
from residuum.analyses.registry import Analysis, Tables, TableSpec, require
from residuum.analyses.result import column
from residuum.errors import ArgumentError, SiteError

if TYPE_CHECKING:
    from residuum.store import SiteArray, Store

NAME = "clusters"
MEMORY = 4 << 30  # bytes of rows held; more is refused, with the remedy named


@dataclass(frozen=True)
class Params:
    """What to cluster, and how."""

    site: str | None = param(None, "site whose rows are clustered; none is pooled or resid_post")
    layer: int | None = param(None, "layer; none is the last captured one", least=0)
    head: int | None = param(
        None, "head, for sites that have heads; none is all side by side", least=0
    )
    k: int = param(20, "number of clusters", least=1)
    seed: int = param(0, "of the random starts and of the sample", least=0)
    restarts: int = param(4, "starts, of which the best is kept", least=1)
    iterations: int = param(100, "most iterations of one start", least=1)
    tolerance: float = param(
        1e-4, "a start ends when its centres move less, as a share of the variance", least=0
    )
    nearest: int = param(8, "rows to list for each centre", least=1)
    rows: int | None = param(None, "cluster a random sample of so many rows", least=1)


TABLES = (
    TableSpec(
        "fit",
        "the start that was kept",
        pa.schema(
            [
                column("n", pa.int64(), "rows that were assigned to a cluster", unit="rows"),
                column("n_sample", pa.int64(), "rows that the centres were found on", unit="rows"),
                column("inertia", pa.float64(), "sum of squared distances to the centres"),
                column("n_iteration", pa.int32(), "moves of the centres"),
            ]
        ),
    ),
    TableSpec(
        "clusters",
        "one cluster",
        pa.schema(
            [
                column("cluster", pa.int32(), "number, by falling size"),
                column("size", pa.int64(), "rows in it", unit="rows"),
                column("mean_distance", pa.float64(), "to the centre, in the site's own units"),
                column("inertia", pa.float64(), "sum of squared distances to the centre"),
                column("inertia_share", pa.float64(), "of the sum over clusters", unit="share"),
            ]
        ),
    ),
    TableSpec(
        "assignments",
        "one row",
        pa.schema(
            [
                column("row", pa.int64(), "row of the site"),
                column("cluster", pa.int32(), "the nearest centre"),
                column("distance", pa.float32(), "to it, in the site's own units"),
            ]
        ),
    ),
    TableSpec(
        "nearest",
        "one of the rows nearest to a centre",
        pa.schema(
            [
                column("cluster", pa.int32(), "number"),
                column("rank", pa.int32(), "0 is the nearest"),
                column("distance", pa.float32(), "to the centre, in the site's own units"),
                column("row", pa.int64(), "row of the site"),
                column("example", pa.int64(), "first example that has the row"),
                column("token", pa.int32(), "position; null where a row is an example"),
                column("before", pa.string(), "the text before; null where a row is an example"),
                column("text", pa.string(), "the token, or the example's text"),
                column("after", pa.string(), "the text after; null where a row is an example"),
            ]
        ),
    ),
)


PREFERRED = ("pooled", "resid_post", "resid_final")


def settle(store: "Store", params: Params) -> Params:
    """Choose site and layer where they were left out."""
    first = (site for site in (*PREFERRED, *store.sites) if site in store.sites)
    site = params.site or next(first)
    require(store, (site,), analysis=NAME)
    layer = params.layer
    if layer is None and store[site].has_layers:
        layer = store[site].layers[-1]
    return replace(params, site=site, layer=layer)


def compute(store: "Store", params: Params) -> Tables:
    """Cluster the chosen rows and describe what came out."""
    rows, found = _fit(store, params)
    inside = found.labels >= 0
    rows, labels, distance = rows[inside], found.labels[inside], found.distances[inside]
    sizes = np.bincount(labels, minlength=params.k)
    number = np.empty(params.k, np.int32)
    number[np.argsort(-sizes, kind="stable")] = np.arange(params.k)  # cluster 0 is the largest
    cluster = number[labels]
    fit = {
        "n": [len(rows)],
        "n_sample": [found.n_sample],
        "inertia": [found.inertia],
        "n_iteration": [found.n_iteration],
    }
    return {
        "fit": pa.table(fit),
        "clusters": _clusters(cluster, distance, params.k),
        "assignments": pa.table({"row": rows, "cluster": cluster, "distance": distance}),
        "nearest": _nearest(store, params, rows, cluster, distance),
    }


def _fit(store: "Store", params: Params) -> tuple[NDArray[np.int64], kernels.Kmeans]:
    """The row numbers that were clustered, and their clusters.

    Raises:
        SiteError: A layer or head that the site does not have.
        ArgumentError: More clusters than rows, or more rows than fit in memory.

    """
    site = store[params.site or ""]
    rows = _rows(site, params)
    settings: dict[str, Any] = {
        "seed": params.seed,
        "restarts": params.restarts,
        "max_iterations": params.iterations,
        "tolerance": params.tolerance,
    }
    if params.layer is not None and not site.has_layers:
        message = f"{NAME}: {site.name} exists once, not in every layer; leave `layer` out"
        raise SiteError(message)
    if params.head is None and len(rows) == site.n_row:
        return rows, kernels.site_kmeans(site, params.layer, params.k, **settings)
    _check_memory(site, len(rows), params)
    values = site.read(rows=rows, layers=params.layer, heads=params.head, dtype=np.float32)
    return rows, kernels.kmeans(values.reshape(len(rows), -1), params.k, **settings)


def _rows(site: "SiteArray", params: Params) -> NDArray[np.int64]:
    rows = np.arange(site.n_row)
    if params.rows is not None and params.rows < len(rows):
        random = np.random.default_rng(params.seed)
        rows = np.sort(random.choice(len(rows), params.rows, replace=False))
    if params.k > len(rows):
        message = (
            f"{NAME}: k={params.k} is more than the {len(rows)} rows there are to cluster; choose "
            f"at most {len(rows)}"
        )
        raise ArgumentError(message)
    return rows


def _check_memory(site: "SiteArray", n_row: int, params: Params) -> None:
    row_shape = site.row_shape if params.head is None else site.row_shape[1:]
    row_bytes = 4 * int(np.prod(row_shape))
    if n_row * row_bytes > MEMORY:
        message = (
            f"{NAME} needs {n_row * row_bytes / 2**30:.1f} GiB for {n_row} rows of {site.name}, "
            f"more than {MEMORY / 2**30:.1f} GiB: cluster a sample, such as rows="
            f"{MEMORY // row_bytes}"
        )
        raise ArgumentError(message)


def _clusters(cluster: NDArray[np.int32], distance: NDArray[np.float32], k: int) -> pa.Table:
    wide = distance.astype(np.float64)
    sizes = np.bincount(cluster, minlength=k)
    inertia = np.bincount(cluster, wide**2, minlength=k)
    total = inertia.sum()
    return pa.table(
        {
            "cluster": np.arange(k, dtype=np.int32),
            "size": sizes,
            "mean_distance": np.bincount(cluster, wide, minlength=k) / np.maximum(sizes, 1),
            "inertia": inertia,
            "inertia_share": inertia / total if total > 0 else inertia,
        }
    )


def _nearest(
    store: "Store",
    params: Params,
    rows: NDArray[np.int64],
    cluster: NDArray[np.int32],
    distance: NDArray[np.float32],
) -> pa.Table:
    """The first rows of each cluster by distance; equal distances by row."""
    order = np.lexsort((rows, distance, cluster))
    starts = np.searchsorted(cluster[order], np.arange(params.k))
    rank = np.arange(len(order)) - starts[cluster[order]]
    listed = order[rank < params.nearest]
    is_example = store[params.site or ""].row_space == "example"
    passages = (example_passages if is_example else token_passages)(store, rows[listed])
    shown: list[Passage] = [passages[row] for row in rows[listed].tolist()]
    names = ("example", "token", "before", "text", "after")
    return pa.table(
        {
            "cluster": cluster[listed],
            "rank": rank[rank < params.nearest].astype(np.int32),
            "distance": distance[listed],
            "row": rows[listed],
        }
        | {
            name: pa.array([getattr(one, name) for one in shown], TABLES[3].schema.field(name).type)
            for name in names
        }
    )


ANALYSIS = Analysis(
    name=NAME,
    version=1,
    title="Clusters",
    source="Arthur and Vassilvitskii 2007, k-means++: the advantages of careful seeding",
    params=Params,
    sites=(),
    tables=TABLES,
    compute=compute,
    settle=settle,
)
run = ANALYSIS.run
