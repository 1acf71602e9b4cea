"""What fails or is given up on its way to a bucket leaves nothing behind, there or waiting."""

import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
from moto.s3.exceptions import AccessForbidden
from moto.s3.models import S3Backend
from s3.test_write import empty_store
from store import made

from residuum import _residuum
from residuum.errors import StoreError
from residuum.store import StoreWriter
from residuum.store.s3_path import S3Path


def until(condition):
    """Wait for what happens beside us."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_parts_of_an_upload_that_failed_do_not_stay(tmp_path, bucket, endpoint, monkeypatch):
    upload_part = S3Backend.upload_part
    refusal = AccessForbidden("for the test")
    sent = []

    def refuse_the_second(self, *args, **kwargs):
        sent.append(args)
        if len(sent) == 2:
            raise refusal
        return upload_part(self, *args, **kwargs)

    monkeypatch.setattr(S3Backend, "upload_part", refuse_the_second)
    file = tmp_path / "large"
    file.write_bytes(bytes(50 << 20))
    with pytest.raises(StoreError, match=r"s3://.*/large"):
        _residuum.object_upload(file, S3Path(f"{bucket}/large"))
    assert len(sent) >= 2
    client = boto3.client("s3", endpoint_url=endpoint)
    name = bucket.removeprefix("s3://")
    until(lambda: not client.list_multipart_uploads(Bucket=name).get("Uploads"))
    assert not S3Path(f"{bucket}/large").exists()


def test_shards_that_no_commit_has_are_found_by_one_list_an_array(tmp_path, bucket, monkeypatch):
    url = f"{bucket}/run"
    empty_store(tmp_path, url)
    arrays, ids = made.draw("float32")
    with StoreWriter.open(url, memory_bytes=1 << 20) as writer:
        made.write_rows(writer, arrays, ids, 0, 32)
        writer.flush()
    shards = [path for path, _, _ in S3Path(url).objects() if "/c/" in str(path)]
    folders = {str(path).split("/c/")[0] for path in shards}
    assert len(shards) > 2 * len(folders)
    lists = []
    list_objects = S3Backend.list_objects_v2

    def count(self, *args, **kwargs):
        lists.append(args)
        return list_objects(self, *args, **kwargs)

    monkeypatch.setattr(S3Backend, "list_objects_v2", count)
    with StoreWriter.open(url):
        assert not [path for path in shards if path.exists()]
    assert len(lists) <= 2 * len(folders), "one of its shards, one of what lies beside them"


# Its server answers on a thread of the same interpreter: not while someone holds the lock on that.
DROPPED = """
import os
import sys
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer
from residuum.store import StoreWriter
from residuum.store.s3_path import S3Path
from store import made

server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
server.start()
os.environ["AWS_ENDPOINT_URL"] = "http://{}:{}".format(*server.get_host_and_port())
boto3.client("s3").create_bucket(Bucket="bucket")
url = S3Path("s3://bucket/run")
with made.create(Path(sys.argv[1])):
    pass
StoreWriter.upload(Path(sys.argv[1]), url)
writer = StoreWriter.open(url, memory_bytes=1 << 20)
made.write_rows(writer, *made.draw("float32"), 0, 32)
assert S3Path(f"{url}/staging/writer.lock").exists()
del writer
assert not S3Path(f"{url}/staging/writer.lock").exists()
print("done")
os._exit(0)
"""


def test_a_writer_that_is_dropped_gives_its_lock_back(tmp_path, environment):
    child = subprocess.run(
        [sys.executable, "-c", DROPPED, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=Path(__file__).parents[1],
    )
    assert child.stdout == "done\n", child.stderr
