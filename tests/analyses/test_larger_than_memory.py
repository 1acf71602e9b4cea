"""Every first analysis on a store of ten times the memory that its process may take.

The store is 7.7 GB of random activations; the limit, 0.75 GB above what the process holds once the
libraries are loaded, is the system's own on private memory (RLIMIT_DATA), so that more of it fails.
Pages of mapped files are not counted: the system takes them back when it needs them.
"""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from residuum.sites import Site
from residuum.store import ArrayPlan, StoreWriter

LIMIT = 768 << 20
N_EXAMPLE, N_TOKEN, N_LAYER, N_HEAD, D_MODEL, D_VOCAB = 6272, 64, 6, 8, 512, 64
N_ROW = N_EXAMPLE * N_TOKEN
BLOCK = 16 * N_TOKEN
INNER = {
    Site.Z: (N_HEAD, D_MODEL // N_HEAD),
    Site.PATTERN: (N_HEAD, N_TOKEN),
    Site.RESID_POST: (D_MODEL,),
    Site.RESID_FINAL: (D_MODEL,),
}

ASK = """
import json, resource, sys, threading, time
import duckdb, numpy, pyarrow.dataset, pyarrow.parquet
import residuum
from residuum.analyses import registry

def private(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024

path, name, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = residuum.open(path)
analysis = registry.find(name)
registry.registered()
start = private("VmData")
resource.setrlimit(resource.RLIMIT_DATA, (start + limit, start + limit))
before, peak, done = private("RssAnon"), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.01):
        peak = max(peak, private("RssAnon") - before)

threading.Thread(target=watch, daemon=True).start()
rows = {table: len(found) for table, found in analysis.run(store).items()}
done.set()
print(json.dumps({"rows": rows, "peak": peak}))
"""


def write(path):
    """Rows of one random block, turned a little further in every block."""
    random = np.random.default_rng(0)
    plans = [
        ArrayPlan(site, N_LAYER if site.has_layers else None, range(N_LAYER), inner, "float16")
        if site.has_layers
        else ArrayPlan(site, None, [], inner, "float16")
        for site, inner in INNER.items()
    ]
    readout = {"norm": "layer_norm", "eps": 1e-5, "norm_offset": 0.0, "logit_scale": 1.0}
    readout |= {"logit_softcap": None, "post_norm": False, "parallel": False}
    model = {"name": "random", "n_layer": N_LAYER, "readout": readout, "causal": True}
    parts = {
        site: random.random((BLOCK, *inner), np.float32).astype(np.float16)
        for site, inner in INNER.items()
    }
    ids = random.integers(0, D_VOCAB, (N_EXAMPLE, N_TOKEN), dtype=np.int32)
    with StoreWriter.create(path, model=model, capture={}, arrays=plans) as writer:
        for first in range(0, N_ROW, BLOCK):
            runs = np.array([[0, first, BLOCK]])
            for site, part in parts.items():
                for layer in range(N_LAYER) if site.has_layers else [None]:
                    turned = np.roll(part, first // BLOCK + (layer or 0), axis=0)
                    writer.write(site, layer, turned, runs)
        following = np.concatenate([ids[:, 1:], np.full((N_EXAMPLE, 1), -1, np.int32)], axis=1)
        writer.write_target(following.ravel(), np.array([[0, 0, N_ROW]]))
        writer.add_examples(_examples())
        writer.add_tokens(_tokens(ids))
        writer.commit(complete=True)
        weights = {
            "W_U": random.standard_normal((D_MODEL, D_VOCAB), np.float32),
            "W_O": random.standard_normal((N_LAYER, *INNER[Site.Z], D_MODEL), np.float32) / 8,
            "ln_final.w": np.ones(D_MODEL, np.float32),
            "ln_final.b": np.zeros(D_MODEL, np.float32),
        }
        writer.write_weights(weights)
        writer.write_vocabulary([f" w{n}" for n in range(D_VOCAB)])


def _examples():
    number = np.arange(N_EXAMPLE, dtype=np.int64)
    return pa.table(
        {
            "example": number,
            "n_token": np.full(N_EXAMPLE, N_TOKEN, np.int32),
            "n_row": np.full(N_EXAMPLE, N_TOKEN, np.int32),
            "first_row": number * N_TOKEN,
            "example_row": pa.nulls(N_EXAMPLE, pa.int64()),
            "content_hash": number.astype(str).tolist(),
        }
    )


def _tokens(ids):
    row = np.arange(N_ROW, dtype=np.int64)
    return pa.table(
        {
            "example": row // N_TOKEN,
            "token": (row % N_TOKEN).astype(np.int32),
            "row": row,
            "token_id": ids.ravel(),
            "text": [f" w{n}" for n in ids.ravel().tolist()],
            "char_start": np.zeros(N_ROW, np.int32),
            "char_end": np.ones(N_ROW, np.int32),
        }
    )


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    path = tmp_path_factory.mktemp("big") / "run.residuum"
    write(path)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert size > 10 * 0.95 * LIMIT, size
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logit_lens", "head_attribution", "attention_roles", "clusters"])
def test_an_analysis_stays_within_a_tenth_of_the_store(big, name, record_property):
    asked = [sys.executable, "-c", ASK, str(big), name, str(LIMIT)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    record_property("bytes above the start", said["peak"])
    assert 0 < said["peak"] < LIMIT
    n_row = N_LAYER * N_HEAD if name == "attention_roles" else N_ROW - N_EXAMPLE
    assert max(said["rows"].values()) >= n_row
