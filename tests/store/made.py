"""A store of known numbers: 37 rows in 4 examples, 3 layers, 5 heads, d_head 7, chunks of 4 rows.

Sites of every layout: without layers (`embed`), with layers of which one is missing (`mlp_out`),
with heads (`z`, `k`), and with a row per example (`pooled`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from residuum.sites import Site
from residuum.store import ArrayPlan, StoreWriter

N_ROW, N_LAYER, N_HEAD, D_HEAD, D_MODEL, D_EMBED, D_VOCAB = 37, 3, 5, 7, 11, 9, 13
CHUNK_ROWS, SHARD_ROWS = 4, 16
LENGTHS = (6, 1, 9, 21)
MLP_LAYERS = (0, 2)
VOCABULARY = ["<eos>", *(f" w{i}é" for i in range(1, D_VOCAB))]
INNER = {
    "embed": (D_MODEL,),
    "resid_post": (D_MODEL,),
    "mlp_out": (D_MODEL,),
    "z": (N_HEAD, D_HEAD),
    "k": (1, D_HEAD),
    "pooled": (D_EMBED,),
}
READOUT = {
    "norm": "layer_norm",
    "eps": 1e-5,
    "norm_offset": 0.0,
    "logit_scale": 1.0,
    "logit_softcap": None,
    "post_norm": False,
    "parallel": False,
}
MODEL = {"name": "made <b>&", "n_layer": N_LAYER, "readout": READOUT}


@dataclass(frozen=True)
class Made:
    """A store on disk and what went into it.

    Attributes:
        path: the folder.
        arrays: by site, of the stored dtype, `[row, layer, ...]`; uncaptured layers are NaN.
        weights: by name, float32.
        ids: int32 `[row]`, the token of each row.
    """

    path: Path
    arrays: dict[str, NDArray[Any]]
    weights: dict[str, NDArray[np.float32]]
    ids: NDArray[np.int32]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """What is written to a store of that dtype."""
    if name == "int8":
        return np.dtype(np.float32)
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def layers_of(site: str) -> list[int]:
    if not Site(site).has_layers:
        return []
    return list(MLP_LAYERS if site == "mlp_out" else range(N_LAYER))


def draw(dtype: str, seed: int = 0) -> tuple[dict[str, NDArray[Any]], NDArray[np.int32]]:
    """Random arrays by site, and token ids."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for site, inner in INNER.items():
        n = len(LENGTHS) if site == "pooled" else N_ROW
        layer = (N_LAYER,) if Site(site).has_layers else ()
        arrays[site] = rng.standard_normal((n, *layer, *inner)).astype(numpy_dtype(dtype))
    missing = [layer for layer in range(N_LAYER) if layer not in MLP_LAYERS]
    arrays["mlp_out"][:, missing] = np.nan
    return arrays, rng.integers(0, D_VOCAB, N_ROW, dtype=np.int32)


def draw_weights(seed: int = 1) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    shapes = {
        "W_U": (D_MODEL, D_VOCAB),
        "b_U": (D_VOCAB,),
        "W_O": (N_LAYER, N_HEAD, D_HEAD, D_MODEL),
        "b_O": (N_LAYER, D_MODEL),
        "ln_final.w": (D_MODEL,),
        "ln_final.b": (D_MODEL,),
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def plans(dtype: str) -> list[ArrayPlan]:
    return [
        ArrayPlan(Site(site), N_LAYER if layers_of(site) else None, layers_of(site), inner, dtype)
        for site, inner in INNER.items()
    ]


def create(path: Path, dtype: str = "float32", codec: str = "none") -> StoreWriter:
    """A writer of an empty store of this cut."""
    return StoreWriter.create(
        path,
        model=MODEL,
        capture={"text_column": "text"},
        arrays=plans(dtype),
        shard_rows=SHARD_ROWS,
        chunk_rows=CHUNK_ROWS,
        codec=codec,
        memory_bytes=1 << 20,
        threads=2,
    )


def write_rows(writer: StoreWriter, arrays, ids, start: int = 0, stop: int = N_ROW) -> None:
    """Queue rows `start:stop` of every token site, and the target of each."""
    runs = np.array([[0, start, stop - start]])
    for site, values in arrays.items():
        if site == "pooled":
            continue
        for layer in layers_of(site) or [None]:
            rows = values[start:stop] if layer is None else values[start:stop, layer]
            writer.write(site, layer, rows, runs)
    writer.write_target(target(ids)[start:stop], runs)


def write(path: Path, dtype: str = "float32", codec: str = "none", seed: int = 0) -> Made:
    """Write a complete store."""
    arrays, ids = draw(dtype, seed)
    weights = draw_weights()
    with create(path, dtype, codec) as writer:
        # In three pieces that end inside chunks, so that chunks are filled by several calls.
        for start, stop in ((0, 5), (5, 18), (18, N_ROW)):
            write_rows(writer, arrays, ids, start, stop)
        writer.write("pooled", None, arrays["pooled"], np.array([[0, 0, len(LENGTHS)]]))
        writer.add_examples(examples())
        writer.add_tokens(tokens(ids))
        writer.write_weights(weights)
        writer.write_vocabulary(VOCABULARY)
        writer.commit(complete=True)
    return Made(path, arrays, weights, ids)


def target(ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """The next token of every row, -1 at the end of an example."""
    following = np.append(ids[1:], -1).astype(np.int32)
    following[np.cumsum(LENGTHS) - 1] = -1
    return following


def examples() -> pa.Table:
    first = np.cumsum([0, *LENGTHS[:-1]])
    number = np.arange(len(LENGTHS))
    return pa.table(
        {
            "example": pa.array(number, pa.int64()),
            "n_token": pa.array(LENGTHS, pa.int32()),
            "first_row": pa.array(first, pa.int64()),
            "example_row": pa.array(number, pa.int64()),
            "content_hash": [f"hash {i}" for i in number],
            "text": [f"text {i} 'é'" for i in number],
        }
    )


def tokens(ids: NDArray[np.int32]) -> pa.Table:
    return pa.table(
        {
            "example": pa.array(np.repeat(np.arange(len(LENGTHS)), LENGTHS), pa.int64()),
            "token": pa.array(np.concatenate([np.arange(n) for n in LENGTHS]), pa.int32()),
            "row": pa.array(np.arange(N_ROW), pa.int64()),
            "token_id": pa.array(ids, pa.int32()),
            "text": [VOCABULARY[i] for i in ids],
            "char_start": pa.array(np.zeros(N_ROW), pa.int32()),
            "char_end": pa.array(np.ones(N_ROW), pa.int32()),
        }
    )
