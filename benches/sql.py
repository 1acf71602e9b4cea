"""Four SQL questions to a store, against DuckDB over Parquet lists and xarray-sql, and numpy.

8192 tokens of a GPT-2-small shape with random weights: resid_post and z, 151 MB each in float16,
page cache warm, 2 threads. The Parquet columns are lists of float32, zstd, once in the order of
capture and once sorted by layer, which is the best case for a question about one layer. *Plain SQL
over the view* computes from `vec` what `residuum_activations(…)` gives as `norm` or `dot`.
xarray-sql, of which every number is a row, asks float32 arrays in memory. *numpy by hand* reads the
store and computes in float32. What ours reads is by its own count, what DuckDB reads of Parquet by
the process's.

    python benches/sql.py [--rounds 5]
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import residuum
from capture import N_TOKEN, make_model, make_prompts
from common import Case, add_table, folder_bytes, interleaved, speeds
from findings import Goal, Report, versions
from residuum.store import Store

WORK = Path(".cache/bench/sql")
STORE = WORK / "run.residuum"
N_PROMPT, N_DISTINCT = 64, 1000
LAYER, WORD, TOP = 5, "w7", 20
D_MODEL, N_HEAD, D_HEAD = 768, 12, 64

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Question:
    """One question: what users of residuum (fused or plain), Parquet and xarray-sql write.

    `answer` computes it with numpy in a dtype.
    """

    title: str
    ours: str
    plain: str
    parquet: str
    cells: str
    answer: Callable[[Store, type[np.floating[Any]]], Floats]


def direction(d: int) -> Floats:
    """A unit vector. [d]."""
    vector = np.random.default_rng(d).standard_normal(d).astype(np.float32)
    return vector / np.linalg.norm(vector)


def literal(vector: Floats) -> str:
    """A vector as a SQL list."""
    return "[" + ", ".join(f"{x:.9g}" for x in vector) + "]"


def make_store() -> None:
    """Capture once; kept for the next run."""
    if not STORE.exists():
        model, tokenizer = make_model()
        prompts = make_prompts(N_PROMPT, N_DISTINCT)
        sites = ["resid_post", "z"]
        residuum.capture((model, tokenizer), prompts, STORE, sites=sites, dtype="float16")


def blocks(store: Store, site: str, *, by_layer: bool) -> Iterator[pa.RecordBatch]:
    """The site as (row, layer[, head], vec), rows in the order of capture or layer by layer."""
    n_row, n_layer, *inner = store[site].shape
    n_head = inner[0] if len(inner) > 1 else 1
    step = n_row if by_layer else 256
    for layers in [[layer] for layer in range(n_layer)] if by_layer else [list(range(n_layer))]:
        for first in range(0, n_row, step):
            rows = slice(first, min(first + step, n_row))
            values = store[site].read(rows=rows, layers=layers).astype(np.float32)
            n = values.shape[0]
            row, layer, head = np.meshgrid(
                np.arange(first, first + n), layers, np.arange(n_head), indexing="ij"
            )
            columns = {"row": row.ravel(), "layer": layer.ravel().astype(np.int32)}
            if len(inner) > 1:
                columns["head"] = head.ravel().astype(np.int32)
            vec = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), inner[-1])
            yield pa.record_batch({**{k: pa.array(v) for k, v in columns.items()}, "vec": vec})


def make_parquet(store: Store, site: str, *, by_layer: bool) -> Path:
    """Write the site as one Parquet file."""
    path = WORK / f"{site}{'_by_layer' if by_layer else ''}.parquet"
    parts = blocks(store, site, by_layer=by_layer)
    first = next(parts)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_batch(first)
        for part in parts:
            writer.write_batch(part)
    return path


def questions() -> list[Question]:
    """The four questions, each with the same answer computed by numpy."""
    stream, head = direction(D_MODEL), direction(D_HEAD)

    def norms(store: Store, kind: type[np.floating[Any]]) -> Floats:
        z = store["z"].read().astype(kind)
        return np.asarray(np.linalg.norm(z, axis=-1).mean(0).ravel())

    def top(store: Store, kind: type[np.floating[Any]]) -> Floats:
        scores = store["resid_post"].read(layers=LAYER).reshape(-1, D_MODEL).astype(kind)
        return np.sort(scores @ stream)[::-1][:TOP]

    def joined(store: Store, kind: type[np.floating[Any]]) -> Floats:
        tokens = store.tokens.to_table().to_pydict()
        rows = [r for r, text in zip(tokens["row"], tokens["text"], strict=True) if text == WORD]
        vec = store["resid_post"].read(rows=np.array(rows), layers=LAYER).astype(kind)
        return np.array([np.linalg.norm(vec.reshape(-1, D_MODEL), axis=1).mean()])

    def attribution(store: Store, kind: type[np.floating[Any]]) -> Floats:
        z = store["z"].read().astype(kind)
        return np.asarray((z @ head).mean(0).ravel())

    def norm(d: int) -> str:
        return f"sqrt(array_inner_product(vec::FLOAT[{d}], vec::FLOAT[{d}]))"

    def dot(vector: Floats) -> str:
        d = len(vector)
        return f"array_inner_product(vec::FLOAT[{d}], {literal(vector)}::FLOAT[{d}])"

    per_head = "SELECT avg({}) FROM {} GROUP BY layer, head ORDER BY layer, head"
    best = f"SELECT {{}} AS score FROM {{}} ORDER BY score DESC LIMIT {TOP}"
    word = (
        "SELECT avg({}) FROM {} JOIN tokens USING (row)"
        f" WHERE layer = {LAYER} AND text = '{WORD}'"
    )
    z_dot = f"residuum_activations('{STORE}', 'z', direction := {literal(head)})"
    layer_dot = (
        f"residuum_activations('{STORE}', 'resid_post', layers := [{LAYER}],"
        f" direction := {literal(stream)})"
    )
    one_layer = f"WHERE layer = {LAYER}"
    each_head = "(SELECT layer, head, {} AS s FROM {} GROUP BY row, layer, head)"
    each_row = f"(SELECT row, {{}} AS s FROM resid_post {{}} {one_layer} GROUP BY row)"
    return [
        Question(
            "mean norm per head",
            per_head.format("norm", f"residuum_activations('{STORE}', 'z')"),
            per_head.format(norm(D_HEAD), "z"),
            per_head.format(norm(D_HEAD), "{z}"),
            per_head.format("s", each_head.format("sqrt(sum(x * x))", "z")),
            norms,
        ),
        Question(
            f"top {TOP} by a direction at one layer",
            best.format("dot", layer_dot),
            best.format(dot(stream), f"resid_post {one_layer}"),
            best.format(dot(stream), f"{{resid_post}} {one_layer}"),
            best.format("s", each_row.format("sum(x * v)", "JOIN stream USING (d)")),
            top,
        ),
        Question(
            "mean norm where the token is a word, at one layer",
            word.format(
                "norm", f"residuum_activations('{STORE}', 'resid_post', layers := [{LAYER}])"
            ),
            word.format(norm(D_MODEL), "resid_post"),
            word.format(norm(D_MODEL), "{resid_post}"),
            f"SELECT avg(s) FROM {each_row.format('sqrt(sum(x * x))', '')} JOIN tokens USING (row)"
            f" WHERE text = '{WORD}'",
            joined,
        ),
        Question(
            "mean contribution to a direction, by head",
            per_head.format("dot", z_dot),
            per_head.format(dot(head), "z"),
            per_head.format(dot(head), "{z}"),
            per_head.format("s", each_head.format("sum(x * v)", "z JOIN head_direction USING (d)")),
            attribution,
        ),
    ]


def cells(store: Store) -> duckdb.DuckDBPyConnection:
    """A connection in which xarray-sql shows `row, layer[, head], d, x` for every number."""
    import xarray_sql  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from xarray import Dataset  # type: ignore[import-not-found,unused-ignore]

    connection = duckdb.connect()
    for site, axes in (("resid_post", ("row", "layer", "d")), ("z", ("row", "layer", "head", "d"))):
        values = store[site].read().astype(np.float32)
        coordinates = {axis: np.arange(n) for axis, n in zip(axes, values.shape, strict=True)}
        xarray_sql.register(connection, site, Dataset({"x": (axes, values)}, coordinates))
    for name, d in (("stream", D_MODEL), ("head_direction", D_HEAD)):
        connection.register(name, pa.table({"d": np.arange(d), "v": direction(d)}))
    return connection


def fetch(connection: duckdb.DuckDBPyConnection, sql: str) -> Floats:
    """The first column of an answer."""
    return np.array([row[0] for row in connection.execute(sql).fetchall()], dtype=np.float64)


def bytes_read(connection: duckdb.DuckDBPyConnection) -> int:
    """Bytes of the store that this process has read so far, by its own count."""
    answer = connection.execute(f"SELECT bytes_read FROM residuum_counters('{STORE}')").fetchone()
    assert answer is not None
    return int(answer[0])


def skipping(report: Report, connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Show how many chunks the nearest rows are found without, by what is kept of each."""
    site = store["resid_post"]
    x = site.read(layers=LAYER).reshape(-1, D_MODEL).astype(np.float64)
    n_chunk = -(-site.n_row // site.chunk_rows)
    widest = int(x.std(axis=0).argmax())
    vector = direction(D_MODEL)
    asked = {
        "the feature that varies most": (f"feature := {widest}", x[:, widest]),
        "feature 0": ("feature := 0", x[:, 0]),
        "a direction": (f"of := {literal(vector)}, metric := 'dot'", x @ vector),
    }
    rows = []
    for title, (what, scores) in asked.items():
        arguments = f"'{STORE}', 'resid_post', {LAYER}, {what}, k := {TOP}"
        count = f"SELECT chunks_decoded FROM residuum_counters('{STORE}')"
        before = fetch(connection, count)[0]
        found = fetch(
            connection, f"SELECT row FROM residuum_nearest({arguments}) ORDER BY rank"
        ).astype(np.int64)
        np.testing.assert_allclose(scores[found], np.sort(scores)[::-1][:TOP], rtol=2e-4)
        read = int(fetch(connection, count)[0] - before)
        rows.append([title, str(read), str(n_chunk), f"{1 - read / n_chunk:.0%}"])
    report.say(
        f"Chunks that the {TOP} rows with the largest scores at one layer are found without:"
    )
    report.table(["largest along", "chunks read", "of", "left out"], rows)


def timed(connection: duckdb.DuckDBPyConnection, sql: str, *, ours: bool) -> Case:
    """What to time; ours counts what it reads of the store, the other is counted from outside."""
    run = partial(fetch, connection, sql)
    return Case(run, partial(bytes_read, connection)) if ours else Case(run)


def main() -> None:
    """Check every answer against numpy, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    WORK.mkdir(parents=True, exist_ok=True)
    make_store()
    store = residuum.open(STORE)
    assert store.n_row == N_PROMPT * N_TOKEN
    ours, parquet = store.connect(), duckdb.connect()
    xarray = cells(store)
    for connection in (parquet, xarray):
        connection.register("tokens", store.tokens.to_table())
    tables = {}
    for by_layer in (False, True):
        tables[by_layer] = {
            site: f"'{make_parquet(store, site, by_layer=by_layer)}'"
            for site in ("resid_post", "z")
        }
    for connection in (ours, parquet, xarray):
        connection.execute("SET threads = 2")
    sizes = ", ".join(f"{p.stat().st_size / 1e6:.0f}" for p in sorted(WORK.glob("*.parquet")))
    report = Report("sql", "SQL")
    report.introduce(__doc__)
    report.say(
        f"A store holds {folder_bytes(STORE) / 1e6:.0f} MB, the Parquet files {sizes} MB. "
        f"Medians of {rounds}. {versions('duckdb', 'pyarrow', 'xarray-sql')}"
    )
    for question in questions():
        want = question.answer(store, np.float64)
        cases = {
            "residuum": (ours, question.ours),
            "residuum, plain SQL over the view": (ours, question.plain),
            "Parquet lists": (parquet, question.parquet.format(**tables[False])),
            "Parquet lists sorted by layer": (parquet, question.parquet.format(**tables[True])),
            "xarray-sql": (xarray, question.cells),
        }
        for connection, sql in cases.values():
            np.testing.assert_allclose(fetch(connection, sql), want, rtol=2e-4, atol=2e-5)
        asked = {name: timed(*case, ours=case[0] is ours) for name, case in cases.items()}
        asked["numpy by hand"] = Case(partial(question.answer, store, np.float32))
        measured = interleaved(asked, rounds)
        add_table(report, question.title, measured, base="residuum")
        goals = [Goal("Parquet lists", ("Parquet lists",), 10)]
        report.judge(question.title, "residuum", speeds(measured), goals)
    skipping(report, ours, store)
    report.keep()


if __name__ == "__main__":
    main()
