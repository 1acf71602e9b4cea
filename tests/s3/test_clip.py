"""What heads of a vision tower in a bucket add is what they add on disk, in Python and in SQL."""

import numpy as np
import tiny_models
import torch

import residuum
from clip import towers
from residuum.clip import effects, patch_maps, text_bases, texts
from residuum.store import Store

SITES = ["z", "resid_final", "pattern", "image_v"]


def test_a_store_in_a_bucket_has_the_same_shares(tmp_path, bucket, upload):
    model = towers.build("clip_vision_joint")
    here = towers.capture(model, towers.pictures(), tmp_path / "run", SITES)
    reader = (tiny_models.build("clip_text", torch.float32), tiny_models.tokenizer())
    said = residuum.capture(reader, ["w1 w2", "w3"], tmp_path / "said", sites=["pooled"])
    there = Store(upload(here.path, f"{bucket}/a/run.residuum"))
    spoken = upload(said.path, f"{bucket}/said.residuum")
    vectors = texts(spoken).vectors
    np.testing.assert_array_equal(vectors, texts(said).vectors)
    np.testing.assert_array_equal(effects(there, vectors).shares, effects(here, vectors).shares)
    np.testing.assert_array_equal(patch_maps(there, vectors), patch_maps(here, vectors))
    bases = [text_bases(store, vectors, layers=[2], n_text=1) for store in (here, there)]
    assert [b.texts.tolist() for b in bases[0]] == [b.texts.tolist() for b in bases[1]]
    for name in ("clip_contributions", "clip_patch_contributions"):
        found = there.sql(f"FROM {name}(directions := '{spoken}', layers := [1]) ORDER BY ALL")
        want = here.sql(f"FROM {name}(directions := '{said.path}', layers := [1]) ORDER BY ALL")
        rows = found.fetchall()
        assert len(rows) > 0
        assert rows == want.fetchall()
