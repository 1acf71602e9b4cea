"""`clip_contributions` and `clip_patch_contributions` beside the shares of `residuum.clip`.

The same numbers leave by two doors; a difference would be two answers to one question.
"""

import duckdb
import numpy as np
import pytest
import tiny_models
import torch
from clip.towers import D_EMBED, N_HEAD, N_LAYER, N_TOKEN

import residuum
from clip import towers
from residuum.clip import effects, head_maps, texts

D = towers.directions()
LISTS = str(D.tolist())
SITES = ["z", "resid_final", "pattern", "image_v"]
N = 6
ORDER = "ORDER BY example, layer, head, direction"


@pytest.fixture(scope="module")
def model():
    return towers.build("clip_vision_joint")


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("clip sql") / "it's é.residuum"
    return towers.capture(model, towers.pictures(N), out, SITES)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    reader = (tiny_models.build("clip_text", torch.float32), tiny_models.tokenizer())
    out = tmp_path_factory.mktemp("said") / "said.residuum"
    return residuum.capture(reader, ["w1 w2", "w3", "w4 w5", "w3"], out, sites=["pooled"])


def head_shares(store, directions=D, **more):
    """`[image, layer, head, direction]`."""
    whole = effects(store, directions, **more)
    found = whole.shares[:, whole.numbers("head")]
    return found.reshape(len(found), -1, N_HEAD, len(directions))


def maps(store, directions=D, layers=range(N_LAYER), **more):
    """`[image, layer, head, token, direction]`."""
    return np.stack([head_maps(store, directions, layer, **more) for layer in layers], axis=1)


def close(got, want):
    assert got.size == want.size
    tolerance = 1e-5 * np.abs(want).max()
    np.testing.assert_allclose(got.reshape(want.shape), want, rtol=0, atol=tolerance)


def numbered(found, *lengths):
    """Asserts that columns count along axes of these lengths, in order."""
    names = [name for name in found if name != "value"]
    assert len(names) == len(lengths)
    for name, want in zip(names, np.indices(lengths), strict=True):
        np.testing.assert_array_equal(found[name], want.ravel(), err_msg=name)


def test_heads_have_the_shares_of_effects(store):
    found = store.sql(f"FROM clip_contributions(directions := {LISTS}) {ORDER}")
    assert found.columns == ["example", "layer", "head", "direction", "value"]
    assert [str(kind) for kind in found.types] == ["BIGINT"] * 4 + ["FLOAT"]
    got = found.fetchnumpy()
    numbered(got, N, N_LAYER, N_HEAD, 3)
    close(got["value"], head_shares(store))


def test_tokens_have_the_maps_of_heads(store):
    found = store.sql(
        f"FROM clip_patch_contributions(directions := {LISTS}) "
        "ORDER BY example, layer, head, token, direction"
    )
    assert found.columns == ["example", "layer", "head", "token", "direction", "value"]
    got = found.fetchnumpy()
    numbered(got, N, N_LAYER, N_HEAD, N_TOKEN, 3)
    close(got["value"], maps(store))


def test_a_macro_is_the_function_of_its_store(store):
    path = str(store.path).replace("'", "''")
    for name in ("clip_contributions", "clip_patch_contributions"):
        arguments = f"directions := {LISTS}, layers := [2], examples := [4, 1]"
        short = store.sql(f"FROM {name}({arguments}) ORDER BY ALL").fetchall()
        long = store.sql(f"FROM residuum_{name}('{path}', {arguments}) ORDER BY ALL").fetchall()
        assert short == long
        assert len(short) > 0


@pytest.mark.parametrize("cast", ["", "::DOUBLE[]", "::FLOAT[]"])
def test_one_vector_is_a_list_of_it(store, cast):
    call = f"FROM clip_contributions(directions := {D[1].tolist()}{cast}) {ORDER}"
    got = store.sql(call).fetchnumpy()
    assert set(got["direction"]) == {0}
    close(got["value"], head_shares(store)[..., 1:2])


def test_whole_numbers_are_directions_too(store):
    axis = [0] * 4 + [1] + [0] * 6
    got = store.sql(f"FROM clip_contributions(directions := {axis}) {ORDER}").fetchnumpy()
    close(got["value"], head_shares(store, np.array([axis])))


def test_texts_are_directions_by_their_store(store, said):
    want = texts(said).vectors
    for call, shares in (
        ("clip_contributions", head_shares(store, want)),
        ("clip_patch_contributions", maps(store, want)),
    ):
        query = f"SELECT * FROM {call}(directions := '{said.path}') ORDER BY ALL"
        got = store.sql(query).fetchnumpy()
        close(got["value"], shares)
        assert set(got["direction"]) == {0, 1, 2, 3}


@pytest.mark.parametrize("patches", [False, True])
def test_layers_and_examples_are_those_that_are_named(store, patches):
    name = "clip_patch_contributions" if patches else "clip_contributions"
    call = f"FROM {name}(directions := {LISTS}, layers := [2, 0], examples := [5, 1, 3])"
    got = store.sql(call).fetchnumpy()
    # As they come: by example in the order asked for, then by layer in order.
    per = len(got["value"]) // 3
    assert got["example"][::per].tolist() == [5, 1, 3]
    assert got["layer"][:: per // 2].tolist() == [0, 2] * 3
    if patches:
        close(got["value"], maps(store, layers=[0, 2], examples=[5, 1, 3]))
    else:
        close(got["value"], head_shares(store, examples=[5, 1, 3])[:, [0, 2]])


def test_a_repeated_image_keeps_its_number(store):
    query = f"FROM clip_contributions(directions := {LISTS}, examples := [1, 5]) {ORDER}"
    got = store.sql(query).fetchnumpy()
    first, second = np.split(got["value"], 2)
    assert set(got["example"]) == {1, 5}
    np.testing.assert_allclose(first, second, rtol=1e-6)


def test_values_of_all_tokens_and_half_precision(model, store, tmp_path):
    sites = ["z", "resid_final", "pattern", "v"]
    more = {"positions": "all", "dtype": "float16"}
    whole = towers.capture(model, towers.pictures(N), tmp_path / "run", sites, **more)
    patches = f"FROM clip_patch_contributions(directions := {LISTS}) ORDER BY ALL"
    got = whole.sql(patches).fetchnumpy()
    close(got["value"], maps(whole))
    heads = whole.sql(f"FROM clip_contributions(directions := {LISTS}) {ORDER}").fetchnumpy()
    close(heads["value"], head_shares(whole))
    assert np.abs(heads["value"] - head_shares(store).ravel()).max() > 1e-6, "or else not half"


def test_many_images_come_in_blocks(model, tmp_path):
    """More images than a block takes at once, of which most are repeats."""
    pictures = towers.pictures(5) * 900
    store = towers.capture(model, pictures, tmp_path / "run", ["z", "resid_final"])
    call = f"clip_contributions(directions := {D[0].tolist()}, layers := [1])"
    got = store.sql(f"FROM {call}").fetchnumpy()
    assert len(pictures) > 4096
    np.testing.assert_array_equal(got["example"], np.repeat(np.arange(len(pictures)), N_HEAD))
    close(got["value"], head_shares(store, D[:1])[:, 1])


def test_sums_and_filters_go_through(store):
    want = head_shares(store)
    (found,) = store.sql(
        f"SELECT sum(value) FROM clip_contributions(directions := {LISTS}) "
        "WHERE example = 2 AND layer = 1 AND head = 3 AND direction = 0"
    ).fetchall()[0]
    assert found == pytest.approx(want[2, 1, 3, 0], abs=1e-5 * float(np.abs(want).max()))


@pytest.mark.parametrize("name", ["clip_contributions", "clip_patch_contributions"])
def test_counting_reads_nothing(model, tmp_path, name):
    store = towers.capture(model, towers.pictures(N), tmp_path / "run", SITES)
    counters = f"SELECT bytes_read, chunks_decoded FROM residuum_counters('{store.path}')"
    with store.connect() as sql:
        sql.execute("SET threads = 1")
        before = sql.execute(counters).fetchone()
        per = N_LAYER * N_HEAD * 3 * (N_TOKEN if "patch" in name else 1)
        call = f"{name}(directions := {LISTS})"
        count = f"SELECT count(*), max(example), count(DISTINCT direction) FROM {call}"
        assert sql.execute(count).fetchone() == (N * per, N - 1, 3)
        assert sql.execute(f"SELECT count(*) FROM {call}").fetchone() == (N * per,)
        assert sql.execute(counters).fetchone() == before
        sql.execute(f"SELECT sum(value) FROM {call}").fetchone()
        assert sql.execute(counters).fetchone() > before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", r"needs `directions := .*vectors \[\[…\], …\] of 11 numbers, or the path"),
        ("directions := NULL", "needs `directions := "),
        ("directions := []", "`directions` is empty: give one at least"),
        ("directions := [1, 2, 3]", "a direction has 3 numbers, but the joint space .* is 11"),
        ("directions := [[1, 2]]", "a direction has 2 numbers, but the joint space .* is 11"),
        (f"directions := [{D[0].tolist()}, NULL]", "`directions` holds a NULL"),
        (f"directions := [{[*D[0].tolist()[:-1], None]}]", "`directions` holds a NULL"),
        (f"directions := {D[0].tolist()}::FLOAT[11]", r"cast `directions` to FLOAT\[\]\[\]"),
        (f"directions := [{D[0].tolist()}::FLOAT[11]]", r"cast `directions` to FLOAT\[\]\[\]"),
        ("directions := '/nowhere'", "/nowhere cannot be opened as a store"),
        (
            f"directions := {LISTS}, layers := [3]",
            "layer 3 of .* not captured; the captured layers are 0, 1, 2",
        ),
        (f"directions := {LISTS}, layers := [-1]", "`layers` holds -1; numbers start at 0"),
        (f"directions := {LISTS}, examples := [6]", "example 6 does not exist: there are 6"),
        (f"directions := {LISTS}, examples := [-1]", "`examples` holds -1"),
        (f"directions := {LISTS}, examples := [NULL]", "`examples` holds a NULL"),
    ],
)
@pytest.mark.parametrize("name", ["clip_contributions", "clip_patch_contributions"])
def test_a_call_that_cannot_be_bound_says_why(store, name, arguments, message):
    arguments = arguments.replace("None", "NULL")
    with pytest.raises(duckdb.Error, match=message):
        store.sql(f"FROM {name}({arguments})").fetchall()


def test_stores_of_other_kinds_are_refused(model, store, tmp_path, gpt2_folder):
    def captured(name, sites, **more):
        return towers.capture(model, towers.pictures(3), tmp_path / name, sites, **more)

    def says(kept, call, message):
        with pytest.raises(duckdb.Error, match=message):
            kept.sql(f"FROM {call}(directions := {LISTS})").fetchall()

    heads, patches = "clip_contributions", "clip_patch_contributions"
    last = captured("last", SITES[:2], positions="last")
    says(last, heads, r"has positions last, so that class tokens may be missing: capture with")
    says(captured("no_z", ["resid_final"]), heads, "`z` was not captured in this store")
    says(captured("no_end", ["z"]), heads, "stream before the final norm was not captured")
    lacks = captured("lacks", SITES[:3])
    says(lacks, patches, "has the values of class tokens alone, or none: capture --site image_v")
    first = captured("first", [*SITES[:3], "v"])
    says(first, patches, "has the values of class tokens alone, or none: capture --site image_v")
    stored = captured("stored", SITES, keys="stored")
    says(stored, patches, "has stored tokens for keys alone: capture with keys='all'")
    no_pattern = captured("no_pattern", ["z", "resid_final", "image_v"])
    says(no_pattern, patches, "`pattern` was not captured in this store")
    text = residuum.capture(
        gpt2_folder, ["a dog"], tmp_path / "text", sites=["z", "resid_final"], device="cpu"
    )
    says(text, heads, "has no projection to a joint space of texts and images")
    reader = (tiny_models.build("clip_text", torch.float32), tiny_models.tokenizer())
    read = residuum.capture(reader, ["w1"], tmp_path / "read", sites=["z", "resid_final"])
    says(read, heads, "holds clip_text; this asks the vision tower of a CLIP model")
    with pytest.raises(duckdb.Error, match="`pooled` was not captured in this store"):
        store.sql(f"FROM {heads}(directions := '{store.path}')".replace("it's", "it''s")).fetchall()


def test_layers_of_patches_are_those_that_have_both(model, tmp_path):
    out = tmp_path / "run"
    some = towers.pictures(3)
    towers.capture(model, some, out, ["z", "resid_final", "pooled"])
    towers.capture(model, some, out, ["pattern"], layers=[0, 2], append=True)
    part = towers.capture(model, some, out, ["image_v"], layers=[1, 2], append=True)
    call = f"clip_patch_contributions(directions := {LISTS}, layers := [2])"
    got = part.sql(f"FROM {call} ORDER BY ALL").fetchnumpy()
    close(got["value"], maps(part, layers=[2]))
    with pytest.raises(duckdb.Error, match="layer 1 of `pattern` was not captured; the"):
        part.sql(f"SELECT sum(value) FROM {call.replace('[2]', '[1]')}").fetchall()


def test_texts_of_another_width_are_refused(store, tmp_path):
    config = tiny_models.MODELS["clip_text"]()[1]
    config.projection_dim = D_EMBED + 2
    other = type(tiny_models.build("clip_text"))(config).eval()
    reader = (other, tiny_models.tokenizer())
    said = residuum.capture(reader, ["w1"], tmp_path / "said", sites=["pooled"])
    with pytest.raises(duckdb.Error, match=r"are 13 wide, but the joint space .* is 11 wide"):
        store.sql(f"FROM clip_contributions(directions := '{said.path}')").fetchall()
