"""Stores of known numbers: shared ones to read, and one of its own for a test that adds to it."""

import pytest
from store import made

from residuum.store import Store

DTYPES = ("float32", "float16", "bfloat16")


@pytest.fixture(scope="session", params=DTYPES)
def kept(request, tmp_path_factory) -> made.Made:
    """A store of each dtype; tests only read it."""
    return made.write(tmp_path_factory.mktemp("kept") / "run.residuum", request.param)


@pytest.fixture
def own(tmp_path) -> made.Made:
    """A float32 store that a test may change."""
    return made.write(tmp_path / "own.residuum")


@pytest.fixture
def store(own) -> Store:
    return Store(own.path)
