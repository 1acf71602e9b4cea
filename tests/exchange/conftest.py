"""Stores of known numbers to export from, shared ones to read and one that a test may change."""

import pytest
from store import made

from residuum.store import Store

DTYPES = ("float32", "float16", "bfloat16")


@pytest.fixture(scope="session", params=DTYPES)
def known(request, tmp_path_factory) -> made.Made:
    """A store of each dtype; tests only read it."""
    return made.write(tmp_path_factory.mktemp("known") / "run.residuum", request.param)


@pytest.fixture(scope="session")
def wide(tmp_path_factory) -> made.Made:
    """A float32 store; tests only read it."""
    return made.write(tmp_path_factory.mktemp("wide") / "run.residuum")


@pytest.fixture(scope="session")
def store(wide) -> Store:
    return Store(wide.path)
