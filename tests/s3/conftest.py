"""A server that speaks S3, in this process, and a bucket of it for each test."""

import itertools
import logging
import os

import pytest
import trees
from moto.server import ThreadedMotoServer

from residuum import _residuum
from residuum.store.s3_path import S3Path

NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def endpoint():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def environment(endpoint, monkeypatch):
    """The variables that a user sets, and no others."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.fixture
def bucket(endpoint, environment):
    """The URL of a new, empty bucket."""
    import boto3

    name = f"bucket-{next(NUMBERS)}"
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def upload():
    """Copies a folder, object by object."""

    def upload(folder, url):
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                _residuum.object_upload(file, S3Path(f"{url}/{file.relative_to(folder)}"))
        return url

    return upload


def objects(url):
    """Bytes of every object below a URL, by name."""
    found = S3Path(url).objects()
    return {str(path)[len(url) + 1 :]: path.read_bytes() for path, _, _ in found}


def files(folder):
    """Bytes of every file of a store, by name; not its lock, which on disk stays open."""
    found = trees.files(folder)
    found.pop("staging/writer.lock", None)
    return found
