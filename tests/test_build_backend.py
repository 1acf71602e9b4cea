"""The footer that makes a shared library a DuckDB extension, and the archive of the sources."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch):
    """The build hooks, which live beside the package and are not part of it."""
    monkeypatch.syspath_prepend(ROOT)
    import build_backend

    yield build_backend
    sys.modules.pop("build_backend")


def test_the_footer_has_its_fields_last_first(backend):
    footer = backend.footer("linux_amd64", "1.2.3")
    assert len(footer) == 22 + 512
    fields = [footer[22 + 32 * i : 54 + 32 * i].rstrip(b"\0").decode() for i in range(8)]
    assert fields == ["", "", "", "C_STRUCT", "1.2.3", "v1.2.0", "linux_amd64", "4"]
    assert footer[-256:] == bytes(256)


def test_a_field_too_long_is_refused(backend):
    with pytest.raises(ValueError, match="does not fit into 32 bytes"):
        backend.footer("linux_amd64", "1" * 33)


@pytest.mark.parametrize(
    ("target", "platform"),
    [
        ("x86_64-unknown-linux-gnu", "linux_amd64"),
        ("aarch64-unknown-linux-gnu", "linux_arm64"),
        ("aarch64-apple-darwin", "osx_arm64"),
        ("x86_64-apple-darwin", "osx_amd64"),
    ],
)
def test_platforms_have_duckdbs_names(backend, target, platform):
    assert backend.duckdb_platform(target) == platform


def test_an_unknown_platform_is_refused_by_name(backend):
    with pytest.raises(ValueError, match="riscv64gc-unknown-linux-gnu"):
        backend.duckdb_platform("riscv64gc-unknown-linux-gnu")
