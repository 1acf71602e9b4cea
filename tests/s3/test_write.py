"""A store that is written in a bucket ends as the same store on disk, object by object; two writers
cannot both commit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command import residuum as command
from s3.conftest import files, objects
from store import made

import residuum
from residuum import _residuum
from residuum.errors import CaptureError, StoreError
from residuum.store import Store, StoreWriter, verify
from residuum.store.s3_path import S3Path

SETTINGS = {
    "sites": ["resid_post", "z", "pattern", "resid_final"],
    "batch_tokens": 14,
    "shard_rows": 32,
    "chunk_rows": 8,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def staging(tmp_path, monkeypatch):
    """Where writers keep what is not finished."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def move_to_another_machine(monkeypatch, tmp_path):
    """One that keeps what is not finished in a folder of its own."""
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "other"))
    monkeypatch.setattr("tempfile.tempdir", None)


def empty_store(tmp_path, url, codec="none"):
    """A store without rows in a bucket, and the same on disk."""
    folder = tmp_path / "made.residuum"
    with made.create(folder, codec=codec) as writer:
        writer.write_weights(made.draw_weights())
        writer.write_vocabulary(made.VOCABULARY)
    StoreWriter.upload(folder, S3Path(url))
    return folder


def fill(writer, pause=lambda: None):
    """Write everything in three pieces, with a commit behind the second."""
    arrays, ids = made.draw("float32")
    made.write_rows(writer, arrays, ids, 0, 5)
    made.write_rows(writer, arrays, ids, 5, 18)
    writer.write("pooled", None, arrays["pooled"], np.array([[0, 0, len(made.LENGTHS)]]))
    writer.add_examples(made.examples())
    writer.add_tokens(made.tokens(ids))
    writer.commit(n_example=3, rows={"token": 16, "example": 3}, publish_tail=True)
    pause()
    made.write_rows(writer, arrays, ids, 18)
    writer.commit(complete=True)


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_every_object_equals_its_file(tmp_path, bucket, staging, codec):
    url = f"{bucket}/run.residuum"
    folder = empty_store(tmp_path, url, codec)
    assert objects(url) == files(folder)

    def look():
        assert Store(url).n_example == 3
        assert verify(url).ok

    with StoreWriter.open(folder, memory_bytes=1 << 20) as writer:
        fill(writer)
    with StoreWriter.open(url, memory_bytes=1 << 20) as writer:
        fill(writer, look)
    assert objects(url) == files(folder)
    assert verify(url).ok
    assert list(staging.rglob("*.*")) == [], "nothing is left on this machine"


def test_full_shards_leave_this_machine_before_the_commit(tmp_path, bucket, staging):
    url = f"{bucket}/run"
    empty_store(tmp_path, url)
    arrays, ids = made.draw("float32")
    with StoreWriter.open(url, memory_bytes=1 << 20) as writer:
        made.write_rows(writer, arrays, ids, 0, 32)
        writer.flush()
        left = [file for file in staging.rglob("*") if file.suffix in (".shard", ".stat")]
        assert left == []
        assert S3Path(f"{url}/activations/z/c/1/0/0/0").exists()
        assert Store(url).rows["token"] == 0, "and nobody sees them yet"
    with StoreWriter.open(url, memory_bytes=1 << 20):
        assert not S3Path(f"{url}/activations/z/c/1/0/0/0").exists(), "no commit has them"


def test_a_large_shard_goes_up_in_parts(tmp_path, bucket):
    file = tmp_path / "large"
    data = np.random.default_rng(0).integers(0, 256, 37 << 20, np.uint8).tobytes()
    file.write_bytes(data)
    _residuum.object_upload(file, S3Path(f"{bucket}/files/large"))
    ((there, length, etag),) = S3Path(f"{bucket}/files").objects()
    assert length == len(data)
    assert etag.endswith('-3"'), "of three parts"
    assert there.read_bytes() == data


def test_one_writer_at_a_time(tmp_path, bucket, monkeypatch):
    url = f"{bucket}/run"
    empty_store(tmp_path, url)
    with StoreWriter.open(url):
        with pytest.raises(StoreError, match="another process is writing"):
            StoreWriter.open(url)
        move_to_another_machine(monkeypatch, tmp_path)
        with pytest.raises(StoreError, match=r"staging/writer.lock: another writer has locked"):
            StoreWriter.open(url)
    with StoreWriter.open(url) as writer:
        assert writer.commit_number == 0


def test_a_commit_replaces_no_other(tmp_path, bucket):
    url = f"{bucket}/run"
    empty_store(tmp_path, url)
    with StoreWriter.open(url) as writer:
        record = S3Path(f"{url}/commits/00000001.json")
        assert _residuum.object_create(b"another writer's", record)
        with pytest.raises(StoreError, match=r"another writer made commit 1 of s3://.* resume"):
            fill(writer)
    assert record.read_bytes() == b"another writer's"


def test_two_writers_cannot_both_commit(tmp_path, bucket, monkeypatch):
    url = f"{bucket}/run"
    empty_store(tmp_path, url)
    with StoreWriter.open(url) as one:
        S3Path(f"{url}/staging/writer.lock").unlink()  # as someone who takes it for left behind
        move_to_another_machine(monkeypatch, tmp_path)
        with StoreWriter.open(url) as two:
            fill(two)
            with pytest.raises(StoreError, match="is not this writer's any more"):
                fill(one)
    store = Store(url)
    assert verify(url).ok
    assert store.complete
    assert store.commit == 2


def test_a_writer_without_its_lock_replaces_no_tables(tmp_path, bucket, monkeypatch):
    url = f"{bucket}/run"
    empty_store(tmp_path, url)
    with StoreWriter.open(url) as one:
        S3Path(f"{url}/staging/writer.lock").unlink()
        move_to_another_machine(monkeypatch, tmp_path)
        with StoreWriter.open(url) as two:
            fill(two)
        before = objects(url)
        with pytest.raises(StoreError, match="is not this writer's any more"):
            fill(one)
    assert objects(url) == before


def test_a_creation_that_fails_is_not_in_the_way(tmp_path, bucket):
    url = f"{bucket}/run"
    with made.create(tmp_path / "made.residuum"):
        pass
    target = tmp_path / "made.residuum/index/target"
    (target / "zarr.json").rename(tmp_path / "kept")
    (target / "zarr.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"index/target/zarr\.json"):
        StoreWriter.upload(tmp_path / "made.residuum", S3Path(url))
    assert not list(S3Path(url).objects())
    (target / "zarr.json").unlink()
    (tmp_path / "kept").rename(target / "zarr.json")
    StoreWriter.upload(tmp_path / "made.residuum", S3Path(url))
    assert Store(url).commit == 0


def test_a_place_where_another_is_being_made(tmp_path, bucket):
    _residuum.object_create(b"a number", S3Path(f"{bucket}/run/staging/writer.lock"))
    with made.create(tmp_path / "made.residuum"):
        pass
    with pytest.raises(
        StoreError, match=r"has locked this store; .* remove everything below s3://.* capture again"
    ):
        StoreWriter.upload(tmp_path / "made.residuum", S3Path(f"{bucket}/run"))


def test_what_a_server_refuses_is_said_plainly(tmp_path, bucket, monkeypatch):
    from residuum.capture.place import Place

    with pytest.raises(StoreError, match=r"s3://nowhere.*there is no such bucket \(404\): create"):
        Place.look(S3Path("s3://nowhere/run"), resume=False, append=False)
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        with monkeypatch.context() as patch:
            patch.delenv(variable)
            with pytest.raises(StoreError, match="there are no credentials: set AWS_ACCESS_KEY"):
                Place.look(S3Path(f"{bucket}/run"), resume=False, append=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(StoreError, match=r'AWS_ENDPOINT_URL is "localhost:9000", but must begin'):
        Store(f"{bucket}/run")


def test_a_place_that_is_taken(tmp_path, bucket):
    url = f"{bucket}/run"
    folder = empty_store(tmp_path, url)
    with pytest.raises(StoreError, match="already holds a store"):
        StoreWriter.upload(folder, S3Path(url))
    _residuum.object_create(b"mine", S3Path(f"{bucket}/notes/tables/a.txt"))
    with pytest.raises(StoreError, match="other objects lie there"):
        StoreWriter.upload(folder, S3Path(f"{bucket}/notes"))
    assert S3Path(f"{bucket}/notes/tables/a.txt").read_bytes() == b"mine"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    rng = np.random.default_rng(1)
    words = ["the", "a", "red", "blue", "square", "circle", "star", "dog", "cat", "runs", "sees"]
    texts = [" ".join(rng.choice(words, rng.integers(1, 14))) for _ in range(60)]
    texts[17] = texts[3]
    path = tmp_path_factory.mktemp("inputs") / "texts.txt"
    path.write_text("\n".join(texts))
    return path


def test_a_capture_ends_as_it_does_on_disk(gpt2_folder, inputs, tmp_path, bucket, staging):
    url, folder = f"{bucket}/run.residuum", tmp_path / "run.residuum"
    for out in (folder, url):
        store = residuum.capture(gpt2_folder, inputs, out, **SETTINGS)
        assert store.complete
        with pytest.raises(CaptureError, match="holds a store already"):
            residuum.capture(gpt2_folder, inputs, out, **SETTINGS)
        residuum.capture(gpt2_folder, ["one more", "the dog"], out, **SETTINGS, append=True)
    assert objects(url) == files(folder)
    assert list(staging.rglob("*.*")) == []
    with pytest.raises(CaptureError, match="no store to append to"):
        residuum.capture(gpt2_folder, inputs, f"{url}2", **SETTINGS, append=True)
    with pytest.raises(
        CaptureError, match="layerwise keeps what enters a block in the store's fold"
    ):
        residuum.capture(gpt2_folder, inputs, f"{url}2", **SETTINGS, schedule="layerwise")


def test_sites_are_added_as_they_are_on_disk(gpt2_folder, inputs, tmp_path, bucket, staging):
    url, folder = f"{bucket}/run.residuum", tmp_path / "run.residuum"
    texts = inputs.read_text().splitlines()[:50]
    more = SETTINGS | {"sites": ["resid_post", "z"]}
    for out in (folder, url):
        residuum.capture(gpt2_folder, texts, out, **SETTINGS | {"sites": ["z"]}, layers=[0])
        residuum.capture(gpt2_folder, texts, out, **more, layers=[0, 2], append=True)
        assert residuum.open(out)["z"].layers == (0, 2)
    assert objects(url) == files(folder)
    assert verify(url).ok
    assert list(staging.rglob("*.*")) == []


def test_the_command_captures_into_a_bucket(gpt2_folder, inputs, tmp_path, bucket):
    url = f"{bucket}/run.residuum"
    asked = ["capture", gpt2_folder, inputs, "--site", "resid_post"]
    assert f"{url}: 60 examples" in command(*asked, "-o", url).err
    assert "holds a store already" in command(*asked, "-o", url, code=1).err
    command(*asked, "-o", url, "--resume")
    command(*asked, "-o", tmp_path / "run.residuum")
    assert objects(url) == files(tmp_path / "run.residuum")
    other = f"{bucket}/other"
    _residuum.object_create(b"mine", S3Path(f"{other}/file"))
    assert "is not a residuum store" in command(*asked, "-o", other, code=1).err


# Slowed down, so that a kill meets every phase also on a quick machine.
CHILD = """
import json, sys, time
import torch
import residuum
from residuum.capture.tracer import Tracer

torch.set_num_threads(1)
run = Tracer.run

def slowly(self, batch, sink):
    time.sleep(0.03)
    run(self, batch, sink)

Tracer.run = slowly
model, inputs, out, settings = json.loads(sys.argv[1])
residuum.capture(model, inputs, out, **settings)
"""


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_killed_and_resumed_is_bit_for_bit_the_same(gpt2_folder, inputs, tmp_path, bucket, codec):
    settings = SETTINGS | {"codec": codec}
    residuum.capture(gpt2_folder, inputs, tmp_path / "whole", **settings)
    url = f"{bucket}/run"
    # Killed at its first object, behind two commits, and at some moment between two.
    reached = [
        lambda: S3Path(url).is_dir(),
        lambda: S3Path(f"{url}/commits/00000002.json").exists(),
        lambda: time.sleep(0.5) or True,
    ]
    for number, condition in enumerate(reached):
        order = [str(gpt2_folder), str(inputs), url, settings | {"resume": number > 0}]
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, json.dumps(order)], stderr=subprocess.PIPE, text=True
        ) as child:
            end = time.monotonic() + 120
            while not condition():
                assert child.poll() is None, child.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.01)
            os.kill(child.pid, signal.SIGKILL)
        if S3Path(f"{url}/zarr.json").exists():
            assert verify(url).ok, "before it is resumed, too"
            assert not Store(url).complete
    residuum.capture(gpt2_folder, inputs, url, **settings, resume=True)
    assert objects(url) == files(tmp_path / "whole")
    assert verify(url).ok
    assert list(Path(os.environ["TMPDIR"]).rglob("*.shard")) == []
