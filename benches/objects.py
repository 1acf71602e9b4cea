"""The questions of `storage.py` to stores in a bucket: ours, tensorstore, zarr-python with obstore.

The bucket is moto's, the server of the tests, on this machine, so that requests do not travel; one
costs it some milliseconds of one core whatever its size. 0.16 GB, opened anew for each answer,
outside the timing.

    python benches/objects.py [--rounds 3] [--rows 8192]
"""

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import residuum
from chunked import Tensorstore, ZarrPython
from findings import Report, versions
from formats import Format, Half, Memmap, Residuum
from storage import WORK, Question, compare, make_data, remove

BUCKET = "activations"
FOLDER = WORK.parent / "objects"


class ResiduumObjects(Residuum):
    """Ours."""

    def open(self) -> None:  # noqa: D102
        self.store = residuum.open(f"s3://{BUCKET}/{self.path.name}")
        self.site = self.store["resid_post"]


class TensorstoreObjects(Tensorstore):
    """tensorstore's own S3 driver."""

    def open(self) -> None:  # noqa: D102
        import tensorstore

        self.array = tensorstore.open(self._objects(), read=True).result()

    def _objects(self) -> dict[str, Any]:
        return {
            "driver": "zarr3",
            "kvstore": {
                "driver": "s3",
                "bucket": BUCKET,
                "path": f"{self.path.name}/",
                "endpoint": os.environ["AWS_ENDPOINT_URL"],
                "aws_region": "us-east-1",
            },
        }


class ZarrObjects(ZarrPython):
    """zarr-python over obstore."""

    def store(self) -> Any:  # noqa: ANN401, D102
        from obstore.store import S3Store  # type: ignore[import-not-found,unused-ignore]
        from zarr.storage import ObjectStore

        place = S3Store(
            BUCKET,
            prefix=self.path.name,
            endpoint=os.environ["AWS_ENDPOINT_URL"],
            client_options={"allow_http": True},
            virtual_hosted_style_request=False,
        )
        return ObjectStore(place, read_only=True)


KINDS: tuple[type[Format], ...] = (ResiduumObjects, TensorstoreObjects, ZarrObjects)


@contextmanager
def served() -> Iterator[None]:
    """A server with an empty bucket, and the variables that name it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
        AWS_ACCESS_KEY_ID="someone",
        AWS_SECRET_ACCESS_KEY="secret",
        AWS_REGION="us-east-1",
    )
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield
    finally:
        server.terminate()
        server.wait()


def wait_for(port: int) -> None:
    """Return when the server answers."""
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    message = f"no server on port {port}"
    raise RuntimeError(message)


def upload(folder: Path) -> None:
    """Copy what a format wrote into the bucket."""
    import boto3  # type: ignore[import-untyped]

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    client.create_bucket(Bucket=BUCKET)
    for file in folder.rglob("*"):
        if file.is_file():
            client.upload_file(str(file), BUCKET, str(file.relative_to(folder.parent)))


def seconds(format: Format, question: Question, expected: Half) -> float:
    """One answer's time."""
    format.open()
    started = time.perf_counter()
    answer = question.ask(format)
    took = time.perf_counter() - started
    assert np.array_equal(answer, expected), format.name
    return took


def main() -> None:
    """Serve, answer, compare, time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=8192)
    options = parser.parse_args()
    for folder in (WORK, FOLDER):
        folder.mkdir(parents=True, exist_ok=True)
    data = make_data(options.rows)
    report = Report("objects", "Object storage")
    report.introduce(__doc__)
    packages = ("moto", "tensorstore", "zarr", "obstore")
    report.say(f"Medians of {options.rounds}. {versions(*packages)}")
    formats = [kind(FOLDER) for kind in KINDS]
    reference = Memmap(FOLDER)
    reference.array = data
    with served():
        for format in formats:
            remove(format.path)
            format.write(data)
            upload(format.path)
        asking = {format.name: partial(seconds, format) for format in formats}
        compare(report, "S3", asking, lambda q: q.ask(reference), len(data), options.rounds)
    report.keep()


if __name__ == "__main__":
    main()
