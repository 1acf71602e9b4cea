"""Stores of the small stream of `tiny.py`, one a norm."""

import pytest
from analyses import tiny


@pytest.fixture(scope="session", params=["layer_norm", "rms_norm"])
def made(request):
    return tiny.tiny(request.param)


@pytest.fixture
def store(made, tmp_path):
    return tiny.write(made, tmp_path / "a run.residuum")
