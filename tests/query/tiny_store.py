"""A small store written with stock zarr and safetensors: nothing of residuum takes part.

So the extension is tested against the format as described, not against our own writer. 3 layers,
5 heads, d_head 7, d_model 35: odd on purpose, so that swapped axes cannot pass.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from safetensors.numpy import save_file
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

N_ROW, N_LAYER, N_HEAD, D_HEAD, D_MODEL, D_VOCAB, D_EMBED = 700, 3, 5, 7, 35, 43, 9
CHUNK_ROWS, SHARD_ROWS = 64, 512
EPS = 1e-5
N_EXAMPLE = 20

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TinyStore:
    """A store on disk and what is in it.

    Attributes:
        path: The store's folder.
        arrays: By path below the store, as stored.
        weights: By name, float32.
    """

    path: Path
    arrays: dict[str, Array]
    weights: dict[str, Array]


def write(
    path: Path,
    *,
    seed: int = 0,
    dtype: str = "float16",
    zstd: bool = False,
    n_row: int = N_ROW,
    d_logits: int | None = None,
) -> TinyStore:
    """Write a store with sites of every layout, readout weights, a vocabulary and targets.

    With `d_logits` there is also the site `logits`, so wide.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    resid_post = normal(n_row, N_LAYER, D_MODEL).astype(dtype)
    captured = [0, 2]
    mlp_out = np.full((n_row, N_LAYER, D_MODEL), np.nan, dtype)
    mlp_out[:, captured] = normal(n_row, len(captured), D_MODEL)
    arrays = {
        "activations/embed": normal(n_row, D_MODEL).astype(dtype),
        "activations/resid_post": resid_post,
        "activations/resid_final": resid_post[:, -1].copy(),
        "activations/z": normal(n_row, N_LAYER, N_HEAD, D_HEAD).astype(dtype),
        "activations/k": normal(n_row, N_LAYER, 1, D_HEAD).astype(dtype),
        "activations/mlp_out": mlp_out,
        "activations/pooled": normal(N_EXAMPLE, D_EMBED).astype(dtype),
        "index/target": rng.integers(-1, D_VOCAB, n_row, dtype=np.int32),
    }
    if d_logits is not None:
        arrays["activations/logits"] = normal(n_row, d_logits).astype(dtype)
    weights = {
        "W_U": normal(D_MODEL, D_VOCAB),
        "b_U": normal(D_VOCAB),
        "W_O": normal(N_LAYER, N_HEAD, D_HEAD, D_MODEL),
        "b_O": normal(N_LAYER, D_MODEL),
        "ln_final.w": 1 + 0.3 * normal(D_MODEL),
        "ln_final.b": 0.3 * normal(D_MODEL),
    }
    path.mkdir(parents=True)
    _write_json(path / "zarr.json", _group({"residuum": _attributes()}))
    for folder in ("activations", "index"):
        _write_json(path / folder / "zarr.json", _group({}))
    for name, values in arrays.items():
        layers = captured if name.endswith("mlp_out") else list(range(N_LAYER))
        _write_array(path / name, values, layers, zstd=zstd)
    (path / "weights").mkdir()
    save_file(weights, path / "weights" / "readout.safetensors")
    _write_json(path / "weights" / "vocabulary.json", [f"w{i}é" for i in range(D_VOCAB)])
    _commit(path, sorted(arrays), captured, n_row)
    return TinyStore(path, arrays, weights)


def _commit(path: Path, arrays: list[str], captured: list[int], n_row: int) -> None:
    rows = {"token": n_row, "example": N_EXAMPLE}
    layers = {name: {"layers": list(range(N_LAYER))} if _has_layer(name) else {} for name in arrays}
    layers["activations/mlp_out"] = {"layers": captured}
    record = {
        "format": 1,
        "commit": 0,
        "complete": True,
        "rows": rows,
        "physical_rows": rows,
        "n_example": N_EXAMPLE,
        "arrays": layers,
        "tables": {},
        "resume": {},
    }
    _write_json(path / "commits" / "00000000.json", record)


def _attributes() -> dict[str, Any]:
    readout = {
        "norm": "layer_norm",
        "eps": EPS,
        "norm_offset": 0.0,
        "logit_scale": 1.0,
        "logit_softcap": None,
        "post_norm": False,
        "parallel": False,
    }
    return {"format": 1, "model": {"readout": readout}, "capture": {}}


_NAMES = {
    "activations/embed": ["row", "d_model"],
    "activations/resid_post": ["row", "layer", "d_model"],
    "activations/resid_final": ["row", "d_model"],
    "activations/z": ["row", "layer", "head", "d_head"],
    "activations/k": ["row", "layer", "kv_head", "d_head"],
    "activations/mlp_out": ["row", "layer", "d_model"],
    "activations/pooled": ["row", "d_embed"],
    "activations/logits": ["row", "d_vocab"],
    "index/target": ["row"],
}


def _has_layer(name: str) -> bool:
    return "layer" in _NAMES[name]


def _write_array(path: Path, values: Array, layers: list[int], *, zstd: bool) -> None:
    name = f"{path.parent.name}/{path.name}"
    inner = values.shape[1 + _has_layer(name) :]
    layer = (1,) if _has_layer(name) else ()
    packed = [ZstdCodec(level=1, checksum=False)] if zstd else []
    sharding = ShardingCodec(
        chunk_shape=(CHUNK_ROWS, *layer, *inner),
        codecs=[BytesCodec(endian="little"), *packed, Crc32cCodec()],
        index_codecs=[BytesCodec(endian="little"), Crc32cCodec()],
    )
    space = "example" if path.name == "pooled" else "token"
    attributes: dict[str, Any] = {"row_space": space}
    if layer:
        attributes["layers"] = layers
    array = zarr.create(
        values.shape,
        store=str(path),
        chunks=(SHARD_ROWS, *layer, *inner),
        dtype=values.dtype,
        zarr_format=3,
        codecs=[sharding],
        fill_value=-1 if values.dtype == np.int32 else np.nan,
        dimension_names=_NAMES[name],
        attributes=attributes,
    )
    array[...] = values


def _group(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
