"""What a store of class tokens takes on disk: that it stays as small as it is said to be."""

from math import prod

import pytest
import tiny_models
import torch

from clip import towers

N = 512  # two whole chunks, so that none is padded
ITEM = 2


def test_a_store_takes_what_its_numbers_take(tmp_path):
    model = tiny_models.build("clip_vision_joint", torch.float32)
    sites = ["z", "mlp_out", "resid_final", "pattern", "pooled", "image_v"]
    store = towers.capture(
        model, towers.pictures(N), tmp_path / "run", sites, positions="first", dtype="float16"
    )
    n_layer, n_head, d_head, d_model = store.weights["W_O"].shape
    n_token = store["pattern"].shape[-1]
    numbers = {
        "z": n_layer * n_head * d_head,
        "mlp_out": n_layer * d_model,
        "resid_final": d_model,
        "pattern": n_layer * n_head * n_token,
        "pooled": store.weights["W_proj"].shape[1],
        "image_v": n_layer * n_token * n_head * d_head,
    }
    for site, n in numbers.items():
        assert prod(store[site].row_shape) * (n_layer if store[site].has_layers else 1) == n
        folder = store.path / "activations" / site / "c"
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert size == pytest.approx(N * n * ITEM, rel=0.05), site
