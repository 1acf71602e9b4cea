"""What the extension says when it cannot answer: one sentence that names the way out."""

import json
import shutil
from pathlib import Path

import duckdb
import pytest
from query import tiny_store

SITES = "embed, k, z, mlp_out, resid_post, resid_final, pooled"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("activations({0}, 'q')", f"`q` was not captured in this store; it holds {SITES}"),
        ("activations({0}, 'zz')", "`zz` is not a site; the sites are embed, resid_pre, q"),
        ("activations({0}, 'mlp_out', layers := [1])", "the captured layers are 0, 2"),
        ("activations({0}, 'z', layers := [-1])", "`layers` holds -1; numbers start at 0"),
        ("activations({0}, 'z', layers := [NULL])", "`layers` holds a NULL"),
        ("activations({0}, 'embed', layers := [0])", "`embed` has no layer axis"),
        ("activations({0}, 'embed', heads := [0])", "`embed` has no head axis"),
        ("activations({0}, 'k', heads := [1])", "kv_head 1 does not exist.*length 1"),
        ("activations({0}, 'z', rows := [700])", "row 700 does not exist.*length 700"),
        ("activations({0}, 'z', direction := [1, 2])", "`d_head` is 2 in `direction` but 7"),
        ("activations(NULL, 'z')", "the argument `store` is NULL"),
        ("activations('/nowhere', 'z')", "/nowhere cannot be opened as a store"),
        ("logit_lens({0}, k := 0)", "`k` must be at least 1"),
        ("logit_lens({0}, layers := [3])", "needs layer 3 of `resid_post` or layer 4"),
        ("head_logits({0})", "needs `tokens := "),
        ("head_logits({0}, tokens := [43])", "the vocabulary has 43 tokens"),
        ("nearest({0}, 'resid_post', 1)", "needs `of`, a row number or a vector"),
        ("nearest({0}, 'resid_post', 1, of := 'x')", "neither a row number nor a vector"),
        ("nearest({0}, 'resid_post', 1, of := [1, 2])", "2 elements but .* has 35"),
        ("nearest({0}, 'resid_post', 1, of := 1, metric := 'x')", "`cosine`, `dot` or `l2`"),
        ("nearest({0}, 'resid_post', 1, of := 1, feature := 1)", "exclude each other"),
        ("nearest({0}, 'resid_post', 1, feature := 1, metric := 'l2')", "leave `metric` out"),
        ("nearest({0}, 'resid_post', 1, feature := 35)", "35.*resid_post.*35"),
        ("nearest({0}, 'resid_post', NULL, of := 1)", "has a layer axis: name a layer"),
        ("nearest({0}, 'embed', 1, of := 1)", "no layer axis: give NULL"),
    ],
)
def test_a_call_that_cannot_be_bound_says_why(sql, tiny, call, message):
    with pytest.raises(duckdb.BinderException, match=message):
        sql.execute(f"FROM residuum_{call}".replace("{0}", f"'{tiny.path}'"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("vec({0}, 'z', 5)", r"has a layer axis: call residuum_vec\(store, site, row, layer\)"),
        ("vec({0}, 'embed', 5, 0)", r"no layer axis: call residuum_vec\(store, site, row\)"),
        ("vec({0}, 'resid_post', 5, 0, 1)", "no head axis"),
        ("vec({0}, 'z', 700, 0)", "row 700 does not exist"),
        ("vec({0}, 'z', -1, 0)", "row -1 does not exist"),
        ("vec({0}, 'mlp_out', 5, 1)", "the captured layers are 0, 2"),
        ("vec({0}, 'z', 5, 1, 5)", "head 5 does not exist"),
        ("vec8({0}, 'z', 5, 1, 4)", "residuum_vec8 returns vectors of 8, but .* `z` have 7"),
        ("vec({0}, 'q', 5, 1)", f"it holds {SITES}"),
    ],
)
def test_a_vector_that_does_not_exist_says_why(sql, tiny, call, message):
    with pytest.raises(duckdb.InvalidInputException, match=message):
        sql.execute(f"SELECT residuum_{call}".replace("{0}", f"'{tiny.path}'"))


def test_a_folder_that_is_no_store_says_so(sql, tmp_path):
    with pytest.raises(duckdb.BinderException, match="is not a residuum store"):
        sql.execute(f"FROM residuum_sites('{tmp_path}')")


def test_a_model_without_unembedding_has_no_logits(sql, tmp_path):
    from safetensors.numpy import save_file

    store = tiny_store.write(tmp_path / "run.residuum")
    weights = {name: store.weights[name] for name in ("W_O", "b_O")}
    save_file(weights, store.path / "weights" / "readout.safetensors")
    with pytest.raises(duckdb.BinderException, match="has no unembedding W_U"):
        sql.execute(f"FROM residuum_logit_lens('{store.path}')")
    (store.path / "weights" / "readout.safetensors").unlink()
    with pytest.raises(duckdb.BinderException, match="has no unembedding W_U"):
        sql.execute(f"FROM residuum_head_logits('{store.path}', tokens := [1])")


@pytest.mark.parametrize(
    ("setting", "said"), [("post_norm", "post-norm"), ("branch_norm", "what their heads give")]
)
def test_heads_that_are_normed_have_no_logits(sql, tmp_path, setting, said):
    store = tiny_store.write(tmp_path / "run.residuum")
    root = json.loads((store.path / "zarr.json").read_text())
    root["attributes"]["residuum"]["model"]["readout"][setting] = True
    (store.path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(duckdb.BinderException, match=said):
        sql.execute(f"FROM residuum_head_logits('{store.path}', tokens := [1])")


def test_without_the_final_stream_kl_is_unknown_and_heads_have_no_scale(sql, tmp_path):
    store = tiny_store.write(tmp_path / "run.residuum")
    record = json.loads((store.path / "commits" / "00000000.json").read_text())
    del record["arrays"]["activations/resid_final"]
    record["arrays"]["activations/resid_post"]["layers"] = [0, 1]
    (store.path / "commits" / "00000000.json").write_text(json.dumps(record))
    metadata = store.path / "activations" / "resid_post" / "zarr.json"
    array = json.loads(metadata.read_text())
    array["attributes"]["layers"] = [0, 1]
    metadata.write_text(json.dumps(array))
    lens = f"residuum_logit_lens('{store.path}', k := 1)"
    assert sql.execute(
        f"SELECT count(*), count(kl_to_final), count(entropy) FROM {lens}"
    ).fetchone() == (
        1400,
        0,
        1400,
    )
    with pytest.raises(duckdb.BinderException, match="needs `resid_final` or the last layer"):
        sql.execute(f"FROM residuum_head_logits('{store.path}', tokens := [1])")


def flip(file: Path) -> None:
    """Change a byte of the first chunk."""
    content = bytearray(file.read_bytes())
    content[100] ^= 0x10
    file.write_bytes(content)


def test_damage_is_named_with_its_file(sql, tmp_path):
    store = tiny_store.write(tmp_path / "run.residuum")
    shard = store.path / "activations" / "resid_post" / "c" / "0" / "1" / "0"
    flip(shard)
    late = f"residuum_vec('{store.path}', 'resid_post', row, layer)"
    scan = f"residuum_activations('{store.path}', 'resid_post')"
    for query in (f"SELECT sum(norm) FROM {scan}", f"SELECT sum({late}[1]) FROM {scan}"):
        with pytest.raises(duckdb.InvalidInputException, match=r"resid_post/c/0/1/0.*checksum"):
            sql.execute(query).fetchall()
    shutil.rmtree(shard.parent)
    with pytest.raises(duckdb.InvalidInputException, match="c/0/1/0"):
        sql.execute(f"SELECT sum(norm) FROM {scan}").fetchall()
