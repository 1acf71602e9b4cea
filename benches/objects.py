"""The questions of `storage.py` to stores behind an S3 server on this machine (s3s-fs).

A bucket is a folder of the server's, so that it serves what `storage.py` wrote, which runs first:
the same objects for tensorstore, for zarr-python with obstore, and ours. Everything is opened anew
for each answer, outside the timing. The server takes part of the two cores; requests do not travel.

    cargo install --root .tools --locked --features binary s3s-fs --version 0.14.1
    python benches/objects.py [--rounds 3]
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import residuum
from chunked import Tensorstore, ZarrPython
from formats import Format, Half, Memmap, Residuum
from report import Goal, Report, versions
from storage import WORK, questions

BUCKET = "activations"
SERVER = shutil.which("s3s-fs") or ".tools/bin/s3s-fs"
KEYS = ("someone", "secret")


class ResiduumObjects(Residuum):
    """Ours."""

    def open(self) -> None:  # noqa: D102
        self.store = residuum.open(f"s3://{BUCKET}/{self.path.name}")
        self.site = self.store["resid_post"]


class TensorstoreObjects(Tensorstore):
    """tensorstore's own S3 driver."""

    def _spec(self) -> dict[str, Any]:
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

    name = "zarr-python"

    def store(self) -> Any:  # noqa: ANN401, D102
        from obstore.store import S3Store
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
def served(folder: Path) -> Iterator[None]:
    """A server of the folder's own folders, each a bucket, and the variables that name it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
        AWS_ACCESS_KEY_ID=KEYS[0],
        AWS_SECRET_ACCESS_KEY=KEYS[1],
        AWS_REGION="us-east-1",
        AWS_ALLOW_HTTP="true",
    )
    keys = ("--access-key", KEYS[0], "--secret-key", KEYS[1])
    command = [SERVER, "--host", "127.0.0.1", "--port", str(port), *keys, str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield
    finally:
        server.terminate()
        server.wait()


def wait_for(port: int) -> None:
    """Return when the server answers."""
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    message = f"{SERVER} does not answer on port {port}"
    raise RuntimeError(message)


def bucket() -> Path:
    """A folder of the server's whose one bucket links to what `storage.py` wrote."""
    root = WORK.parent / "s3"
    shutil.rmtree(root, ignore_errors=True)
    (root / BUCKET).mkdir(parents=True)
    for kind in (Residuum, Tensorstore, ZarrPython):
        path = kind(WORK).path.resolve()
        assert path.exists(), "python benches/storage.py writes what is read here"
        shutil.copytree(path, root / BUCKET / path.name, copy_function=os.link)
    return root


def seconds(format: Format, ask: Any, expected: Half) -> float:  # noqa: ANN401  a question's function
    """One answer's time."""
    format.open()
    started = time.perf_counter()
    answer = ask(format)
    took = time.perf_counter() - started
    assert np.array_equal(answer, expected), format.name
    return took


def main() -> None:
    """Serve, answer, compare, time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    reference = Memmap(WORK)
    reference.open()
    report = Report("objects", "Object storage")
    report.introduce(__doc__)
    report.say(f"Medians of {options.rounds}. {versions('tensorstore', 'zarr', 'obstore')}")
    formats = [kind(WORK) for kind in KINDS]
    found: dict[str, dict[str, float]] = {}
    with served(bucket()):
        for question in questions(len(reference.array)):
            expected = question.ask(reference)
            times: dict[str, list[float]] = {format.name: [] for format in formats}
            for _ in range(options.rounds):
                for format in formats:
                    times[format.name].append(seconds(format, question.ask, expected))
            speeds = {n: question.amount / statistics.median(there) for n, there in times.items()}
            rivals = (Tensorstore.name, ZarrPython.name)
            goal = Goal("the best rival", rivals, 1)
            report.judge(f"S3: {question.title}", Residuum.name, speeds, [goal])
            found[f"{question.title}, {question.unit}"] = speeds
    rows = [[f.name, *(f"{of[f.name]:,.3g}" for of in found.values())] for f in formats]
    report.table(["", *found], rows)
    report.keep()


if __name__ == "__main__":
    main()
