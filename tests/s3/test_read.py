"""A store in a bucket answers as its copy on disk does, bit for bit, and reads what it must."""

import numpy as np
import pyarrow as pa
import pytest
from command import residuum as command
from s3.conftest import files, objects
from store import made

import residuum
from residuum.errors import StoreError
from residuum.sites import Site
from residuum.store import ArrayPlan, Store, StoreWriter

FORMS = [("float32", "none"), ("float16", "none"), ("bfloat16", "zstd"), ("int8", "none")]
QUERIES = [
    "SELECT * FROM z ORDER BY ALL",
    "SELECT row, vec FROM embed WHERE row IN (3, 30) ORDER BY row",
    "SELECT e.text, t.token, t.text FROM tokens t JOIN examples e USING (example) ORDER BY 1, 2",
    "SELECT count(*) FROM resid_post JOIN tokens USING (row) WHERE token_id = 3 AND layer = 1",
    "SELECT * FROM logit_lens(k := 2) ORDER BY ALL",
    "SELECT * FROM head_logits(tokens := [1, 2]) ORDER BY ALL",
    "SELECT * FROM nearest('resid_post', 1, of := 3, k := 4) ORDER BY ALL",
    "SELECT layer, vec('resid_post', row, layer) FROM resid_post WHERE row = 36 ORDER BY layer",
]


@pytest.fixture(params=FORMS, ids=lambda form: "-".join(form))
def pair(request, tmp_path, bucket, upload):
    """A store on disk and the same in a bucket."""
    kept = made.write(tmp_path / "run.residuum", *request.param)
    return Store(kept.path), Store(upload(kept.path, f"{bucket}/a/run.residuum"))


@pytest.fixture
def both(tmp_path, bucket, upload):
    kept = made.write(tmp_path / "run.residuum")
    return Store(kept.path), Store(upload(kept.path, f"{bucket}/run.residuum"))


def same(left, right):
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    assert left.tobytes() == right.tobytes()


def test_arrays_are_the_same(pair):
    here, there = pair
    assert there.sites == here.sites
    scattered = np.array([36, 0, 17, 17, 5, 6, 7, 20])
    for site in here.sites:
        same(here[site].read(), there[site].read())
        n = here[site].n_row
        same(here[site].read(scattered % n), there[site].read(scattered % n))
        same(here[site].read(scattered % n, verify=True), there[site].read(scattered % n))
        same(here[site].read(slice(2, n - 1)), there[site].read(slice(2, n - 1)))
    same(here["z"].read([9, 3], 1, [4, 0]), there["z"].read([9, 3], 1, [4, 0]))
    same(here.target.read(), there.target.read())


def test_streams_are_the_same(pair):
    here, there = pair
    for settings in ({}, {"shuffle": True, "seed": 3, "window_rows": 12}):
        batches = [
            list(store["resid_post"].stream(1, batch_rows=5, with_rows=True, **settings))
            for store in pair
        ]
        for (left, left_rows), (right, right_rows) in zip(*batches, strict=True):
            same(left, right)
            same(left_rows, right_rows)
    assert here.counters()["rows_read"] == there.counters()["rows_read"]


def test_everything_beside_the_arrays_is_the_same(pair):
    here, there = pair
    for name in here.weights:
        same(here.weights[name], there.weights[name])
    assert there.vocabulary == here.vocabulary
    assert there.examples.to_table().equals(here.examples.to_table())
    assert there.tokens.to_table(columns=["row"]).equals(here.tokens.to_table(columns=["row"]))
    left, right = (store.statistics("z", 2) for store in pair)
    same(left.mean, right.mean)
    assert there.is_current
    assert {**here.info(), "path": ""} == {**there.info(), "path": ""}
    assert repr(there) == repr(here).replace(str(here.path), str(there.path))


def test_sql_is_the_same(pair):
    here, there = pair
    for query in QUERIES:
        assert there.sql(query).fetchall() == here.sql(query).fetchall(), query
    listed = f"SELECT * FROM '{there.path}'"
    assert there.sql(listed).fetchall() == here.sql(f"SELECT * FROM '{here.path}'").fetchall()


def test_tables_and_results_are_kept_in_the_bucket(both):
    here, there = both
    for store in both:
        assert store.sql("SELECT count(*) FROM tokens").fetchall() == [(made.N_ROW,)]
        store.add_table("labels", pa.table({"example": [0, 1], "good": [True, False]}))
        assert store.sql("SELECT good FROM labels ORDER BY 1").fetchall() == [(False,), (True,)]
        with pytest.raises(StoreError, match="replace=True"):
            store.add_table("labels", pa.table({"example": [0]}))
        store.add_table("labels", pa.table({"example": [7]}), replace=True)
        assert store.sql("SELECT example FROM labels").fetchall() == [(7,)]
        assert "labels" in store.tables
    left, right = (
        residuum.analyses.run("clusters", store, site="resid_post", k=2) for store in both
    )
    for name, table in left.tables.items():
        assert table.equals(right.tables[name])
    again = residuum.analyses.run("clusters", Store(there.path), site="resid_post", k=2)
    assert again.provenance["time"] == right.provenance["time"], "kept, not computed again"
    name = f"clusters_{next(iter(left.tables))}"
    ask = f"SELECT count(*) FROM {name}"
    assert there.sql(ask).fetchall() == here.sql(ask).fetchall()


def test_commands(both, tmp_path):
    here, there = both
    assert command("info", there.path).out == command("info", here.path).out.replace(
        str(here.path), str(there.path)
    )
    assert "no problem" in command("verify", there.path).out
    ask = ["SELECT token, count(*) AS n FROM tokens GROUP BY 1 ORDER BY 1", "--format", "csv"]
    assert command("sql", there.path, *ask).out == command("sql", here.path, *ask).out
    command("run", "clusters", there.path, "--set", "site=embed", "--set", "k=2")
    command("report", there.path, "logit_lens", "-o", tmp_path / "report.html")
    assert "logit_lens" in (tmp_path / "report.html").read_text()
    command("export", there.path, "-o", tmp_path / "copy.residuum", "--format", "store")
    same(Store(tmp_path / "copy.residuum")["z"].read(), here["z"].read())
    refused = command("export", here.path, "-o", f"{there.path}2", "--format", "store", code=1)
    assert "is in a bucket" in refused.err


D_WIDE, N_WIDE, LAYERS = 2048, 3000, (0, 1, 2)


@pytest.fixture
def wide(tmp_path, bucket, upload):
    """Rows of 8 kB, 3 layers, chunks of 64 rows, shards of 1024."""
    folder = tmp_path / "wide.residuum"
    plan = ArrayPlan(Site("resid_post"), len(LAYERS), LAYERS, (D_WIDE,), "float32")
    with StoreWriter.create(
        folder, model={}, capture={}, arrays=[plan], target=False, shard_rows=1024, chunk_rows=64
    ) as writer:
        values = np.random.default_rng(0).standard_normal((N_WIDE, D_WIDE), np.float32)
        runs = np.array([[0, 0, N_WIDE]])
        for layer in LAYERS:
            writer.write("resid_post", layer, values + layer, runs)
        writer.add_examples(
            pa.table(
                {
                    "example": [0],
                    "n_token": pa.array([N_WIDE], pa.int32()),
                    "first_row": [0],
                    "example_row": pa.array([None], pa.int64()),
                    "content_hash": ["x"],
                }
            )
        )
        writer.commit(complete=True, rows={"token": N_WIDE, "example": 0})
    return values, Store(upload(folder, f"{bucket}/wide"))


INDEX = 3 * (16 * 16 + 4)
"""Bytes of the indexes of three shards."""


def test_far_rows_cost_themselves_and_near_ones_what_lies_between(wide):
    values, store = wide
    site, row = store["resid_post"], D_WIDE * 4

    def read(rows):
        before = store.counters()["bytes_read"]
        same(site.read(rows, layers=1), values[rows] + 1)
        return store.counters()["bytes_read"] - before

    far = np.array([2700, 5, 700, 1023, 1024])  # 1023 and 1024 lie in two shards
    assert read(far) == len(far) * row + INDEX, "the indexes once"
    assert read(far) == len(far) * row
    most = 2**20 // row
    near = np.array([10, 10 + most])  # in chunks 0 and 2, each of which ends with a checksum
    assert read(near) == (1 + most) * row + 2 * 4
    assert read(near + np.array([0, 1])) == 2 * row


def test_rows_near_the_end_of_a_shard_come_with_its_index(wide):
    values, store = wide
    before = store.counters()["bytes_read"]
    rows = np.array([N_WIDE - 100, N_WIDE - 1])
    same(store["resid_post"].read(rows, layers=1), values[rows] + 1)
    padded = -(-N_WIDE // 64) * 64  # the last chunk is as long as the others
    least = (padded - rows[0]) * D_WIDE * 4 + INDEX // 3
    read = store.counters()["bytes_read"] - before
    assert least < read <= least + 16 * 4, "no more than the checksums of a shard's chunks"


def test_a_layer_costs_that_layer(wide):
    values, store = wide
    same(store["resid_post"].read(layers=2), values + 2)
    n_chunk = -(-N_WIDE // 64)
    layer = n_chunk * (64 * D_WIDE * 4 + 4) + INDEX
    assert store.counters()["bytes_read"] == layer


def test_a_reader_goes_on_when_its_last_shard_is_replaced(tmp_path, bucket, upload):
    arrays, ids = made.draw("float32")
    folder, url = tmp_path / "run", f"{bucket}/run"
    with made.create(folder) as writer:
        made.write_rows(writer, arrays, ids, 0, 6)
        writer.write("pooled", None, arrays["pooled"], np.array([[0, 0, 4]]))
        writer.add_examples(made.examples())
        writer.add_tokens(made.tokens(ids))
        writer.commit(n_example=1, rows={"token": 6, "example": 1}, publish_tail=True)
        reader, late = Store(upload(folder, url)), Store(url)
        first = reader["embed"].read()
        made.write_rows(writer, arrays, ids, 6)
        writer.commit(complete=True)
        upload(folder, url)
    assert not reader.is_current
    same(reader["embed"].read(), first)
    same(late["embed"].read(), first)
    same(Store(url)["embed"].read()[:6], first)
    assert Store(url)["embed"].n_row == made.N_ROW


def test_verify_finds_a_flipped_byte(both):
    here, there = both
    assert there.verify().ok
    assert there.verify().chunks == here.verify().chunks
    path = there.path / "activations/z/c/1/2/0/0"
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 1
    replace(path, damaged)
    (problem,) = there.verify().problems
    assert problem.file == "activations/z/c/1/2/0/0"
    assert "checksum of its chunk 0" in problem.what
    with pytest.raises(StoreError, match="checksum of its chunk 0"):
        Store(there.path)["z"].read()


def replace(path, data):
    from residuum.store.files import write_bytes

    write_bytes(path, bytes(data))


def test_a_shard_cut_short_is_damage(both):
    _, there = both
    path = there.path / "activations/embed/c/0/0"
    whole = path.read_bytes()
    for length in (0, 10, len(whole) - 1):
        replace(path, whole[:length])
        with pytest.raises(StoreError, match=r"s3://.*embed/c/0/0 is damaged"):
            Store(there.path)["embed"].read()


def test_an_index_that_points_beyond_its_shard_is_damage(both):
    _, there = both
    path = there.path / "activations/embed/c/0/0"
    index = bytearray(path.read_bytes())
    index[-20 - 16 * 3 : -20 - 16 * 3 + 8] = (1 << 40).to_bytes(8, "little")
    replace(path, index)
    with pytest.raises(StoreError, match="index"):
        Store(there.path)["embed"].read()


def test_a_missing_shard_is_named(both):
    _, there = both
    (there.path / "activations/embed/c/0/0").unlink()
    with pytest.raises(StoreError, match=r"embed/c/0/0 is missing: the last commit has 37 rows"):
        there["embed"].read()
    (there.path / "activations/z/c/2/1/0/0").unlink()
    with pytest.raises(StoreError, match=r"z/c/2/1/0/0 is missing"):
        Store(there.path)


def test_no_store_at_the_url(bucket, both):
    with pytest.raises(StoreError, match=rf"{bucket}/none is not a residuum store"):
        Store(f"{bucket}/none")
    with pytest.raises(StoreError, match="no such bucket"):
        Store("s3://no-bucket-of-this-name/run")
    for url in ("s3://", "s3://only-a-bucket", "s3://only-a-bucket/"):
        with pytest.raises(StoreError, match="s3://<bucket>/<name>"):
            Store(url)


def test_another_format_is_refused(both):
    _, there = both
    root = there.path / "zarr.json"
    replace(root, root.read_bytes().replace(b'"format": 1', b'"format": 9'))
    with pytest.raises(StoreError, match="format 9"):
        Store(there.path)


def test_a_server_that_is_not_there(both, monkeypatch):
    _, there = both
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"s3://.*cannot be reached .*AWS_ENDPOINT_URL") as caught:
        Store(there.path)
    assert "refused" in str(caught.value)


def test_no_credentials(both, monkeypatch):
    _, there = both
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    # Where Amazon's machines have a service that gives keys; here there is none.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="no credentials: set AWS_ACCESS_KEY_ID"):
        Store(there.path)
    # Unsigned, so that the server says no and nobody asks for credentials.
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with pytest.raises(StoreError, match=r"access was denied \(403\)"):
        Store(there.path)


def test_access_denied(monkeypatch, environment):
    import http.server
    import threading

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(StoreError, match=r"s3://some/run.*access was denied \(403\)"):
            Store("s3://some/run")
        server.shutdown()
        thread.join()


def test_upload_is_the_same(both):
    here, there = both
    assert objects(str(there.path)) == files(here.path)
