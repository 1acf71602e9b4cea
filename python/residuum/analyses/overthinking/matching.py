"""Prefix-matching heads (O4): who looks from the query at earlier labels of the same shown class.

One question in SQL, over the stored pattern and the table of demonstrations. `{demos}` is that
table's name: `overthinking_demos` for who asks it of a store in which this result is kept.
"""

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from residuum.errors import SiteError

if TYPE_CHECKING:
    from residuum.store import Store

SQL = """
WITH look AS (                        -- per prompt: its last demo's row, and the keys that count
    SELECT q.row, q.example, q.dataset, q.setting, q.prefix, q.demo, q.n_class,
           flatten(list(k.label_tokens) FILTER (k.shown_label = q.shown_label)) AS same,
           flatten(list(k.label_tokens) FILTER (k.shown_label <> q.shown_label)) AS other,
           list(k.pre_label_token) FILTER (k.shown_label = q.shown_label) AS same_before,
           list(k.pre_label_token) FILTER (k.shown_label <> q.shown_label) AS other_before
    FROM {demos} q JOIN {demos} k ON k.example = q.example AND k.demo < q.demo
    WHERE q.demo = q.n_demo - 1
    GROUP BY ALL
), score AS (                         -- vec counts from 1: vec[t + 1] is the key at position t
    SELECT dataset, setting, prefix, demo, layer, head, n_class,
           coalesce(list_sum([vec[t + 1]::DOUBLE FOR t IN same]), 0) AS a,
           coalesce(list_sum([vec[t + 1]::DOUBLE FOR t IN other]), 0) AS b,
           coalesce(list_sum([vec[t + 1]::DOUBLE FOR t IN same_before]), 0) AS c,
           coalesce(list_sum([vec[t + 1]::DOUBLE FOR t IN other_before]), 0) AS d
    FROM look JOIN pattern USING (row)
)
SELECT dataset, setting, prefix, demo, layer, head,
       avg(a - b / (n_class - 1)) AS pm_label,
       avg(c - d / (n_class - 1)) AS pm_prelabel,
       avg(a + b) AS on_labels, count(*) AS n
FROM score GROUP BY ALL ORDER BY pm_label DESC, dataset, setting, prefix, layer, head
"""


def scores(store: "Store", demos: pa.Table) -> pa.Table:
    """Dataset, setting, prefix, demo, layer, head, pm_label, pm_prelabel, on_labels, n.

    Raises:
        SiteError: the pattern was not captured, or not of the tokens before labels and every key.
    """
    if "pattern" not in store.sites:
        message = (
            f"prefix matching needs the site pattern, which {store.path} does not hold: add it "
            "with `residuum capture … --append --site pattern`"
        )
        raise SiteError(message)
    if store.capture.get("keys") == "stored":
        message = (
            f"{store.path} holds the pattern of stored keys alone, and prefix matching counts keys "
            "by their position: capture `pattern` with --keys all"
        )
        raise SiteError(message)
    connection = store.connect()
    try:
        connection.register("demos", demos)
        found = connection.sql(SQL.format(demos="demos")).to_arrow_table()
    finally:
        connection.close()
    if not found.num_rows:
        message = (
            f"{store.path} holds the pattern of no token before a last label: capture it with "
            "--positions all, or column:query_token"
        )
        raise SiteError(message)
    return found


def ranked(table: pa.Table, dataset: str, setting: str) -> list[tuple[int, int]]:
    """All heads (layer, head) by their score on the false prefix of a data set, best first."""
    mine = [
        row
        for row in table.select(
            ["dataset", "setting", "prefix", "layer", "head", "pm_label"]
        ).to_pylist()
        if (row["dataset"], row["setting"], row["prefix"]) == (dataset, setting, "false")
    ]
    mine.sort(key=lambda row: (-row["pm_label"], row["layer"], row["head"]))
    return [(row["layer"], row["head"]) for row in mine]


def rows(table: pa.Table, dataset: str, setting: str, model: str) -> list[dict[str, Any]]:
    """Rows of `prefix_matching`; heads are chosen on this data set and setting."""
    order: dict[tuple[str, str], dict[tuple[int, int], int]] = {}
    made = []
    for row in table.to_pylist():
        key = (row["dataset"], row["setting"])
        if key not in order:
            order[key] = {head: rank for rank, head in enumerate(ranked(table, *key))}
        rank = order[key][row["layer"], row["head"]] if row["prefix"] == "false" else None
        made.append({"model": model, **row, "rank": rank, "selected": key == (dataset, setting)})
    return made
