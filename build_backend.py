"""Build hooks: compile the DuckDB extension, then let maturin build the wheel around it.

`pip install .`, `uv sync` and `uv build` call the hooks of PEP 517 and PEP 660 below. Those that
end in something to install first build `rust/duckdb-extension` with cargo, append the footer that
DuckDB asks of a loadable extension, and put the file into the Python package, where maturin packs
it. `python build_backend.py` does that first part alone.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import maturin
from maturin import (
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "build_editable",
    "build_extension",
    "build_sdist",
    "build_wheel",
    "duckdb_platform",
    "footer",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ROOT = Path(__file__).resolve().parent
PACKAGE = "residuum-duckdb"
# DuckDB derives the entry point `residuum_init_c_api` from the stem of this name.
EXTENSION = ROOT / "python" / "residuum" / "residuum.duckdb_extension"
# The stable C API of DuckDB 1.2, which every later 1.x and 2.0 still serve.
ABI_TYPE = "C_STRUCT"
API_VERSION = "v1.2.0"

_FIELD_BYTES = 32
_SIGNATURE_BYTES = 256
# Header of a WebAssembly custom section of 531 bytes with a 16-byte name, then the payload's
# length: DuckDB wants it on every platform.
_FOOTER_HEADER = b"\x00\x93\x04\x10duckdb_signature\x80\x04"
_SYSTEMS = {
    "unknown-linux-gnu": "linux_{cpu}",
    "unknown-linux-musl": "linux_{cpu}_musl",
    "apple-darwin": "osx_{cpu}",
    "pc-windows-msvc": "windows_{cpu}",
}
_CPUS = {"x86_64": "amd64", "aarch64": "arm64"}


def footer(platform: str, version: str) -> bytes:
    """Make the 534 bytes that turn a shared library into a DuckDB extension.

    Args:
        platform: DuckDB's name of the platform, such as `linux_amd64`.
        version: The extension's own version, for `duckdb_extensions()`.

    Returns:
        A 22-byte header, eight fields of 32 bytes (three unused ones first) and an empty signature
        of 256 bytes.

    Raises:
        ValueError: A field is longer than 32 bytes.
    """
    fields = ["", "", "", ABI_TYPE, version, API_VERSION, platform, "4"]
    encoded = [field.encode() for field in fields]
    for field in encoded:
        if len(field) > _FIELD_BYTES:
            message = f"{field.decode()!r} does not fit into {_FIELD_BYTES} bytes of the footer"
            raise ValueError(message)
    payload = b"".join(field.ljust(_FIELD_BYTES, b"\0") for field in encoded)
    return _FOOTER_HEADER + payload + bytes(_SIGNATURE_BYTES)


def duckdb_platform(target: str) -> str:
    """Translate a Rust target triple to DuckDB's name of the platform.

    Raises:
        ValueError: DuckDB has no name for the target.
    """
    cpu, _, system = target.partition("-")
    if cpu not in _CPUS or system not in _SYSTEMS:
        message = (
            f"DuckDB has no platform name for the Rust target {target!r}; known are the processors "
            f"{', '.join(_CPUS)} with {', '.join(_SYSTEMS)}"
        )
        raise ValueError(message)
    return _SYSTEMS[system].format(cpu=_CPUS[cpu])


def build_extension() -> Path:
    """Compile the extension in release mode, add its footer and put it into the package.

    Returns:
        Path of the finished file. It is left alone if it has the right bytes already.

    Raises:
        RuntimeError: cargo is missing, failed or made no library.
    """
    library, version = _compile()
    content = library.read_bytes() + footer(duckdb_platform(_target()), version)
    if not (EXTENSION.is_file() and EXTENSION.read_bytes() == content):
        # A new file, renamed: a process that has the old one mapped keeps the old bytes.
        partial = EXTENSION.with_suffix(f".{os.getpid()}.partial")
        partial.write_bytes(content)
        partial.replace(EXTENSION)
    return EXTENSION


def _compile() -> tuple[Path, str]:
    """Run cargo; returns the shared library and the crate's version."""
    command = ["build", "--release", "--locked", "--package", PACKAGE, "--lib"]
    output = _run("cargo", *command, "--message-format=json-render-diagnostics")
    messages = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    made = [m for m in messages if m.get("reason") == "compiler-artifact"]
    for artifact in reversed(made):
        if artifact["target"]["name"] == PACKAGE.replace("-", "_"):
            version = artifact["package_id"].rpartition("#")[2].rpartition("@")[2]
            for name in artifact["filenames"]:
                if Path(name).suffix in {".so", ".dylib", ".dll"}:
                    return Path(name), version
    message = f"cargo built {PACKAGE} and reported no shared library"
    raise RuntimeError(message)


def _target() -> str:
    """The Rust target that cargo builds for."""
    chosen = os.environ.get("CARGO_BUILD_TARGET")
    if chosen:
        return chosen
    for line in _run("rustc", "-vV").splitlines():
        key, _, value = line.partition(": ")
        if key == "host":
            return value
    message = "`rustc -vV` names no host"
    raise RuntimeError(message)


def _run(program: str, *arguments: str) -> str:
    """Run a program of the Rust toolchain in the repository; returns what it printed."""
    try:
        done = subprocess.run(
            [program, *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        )
    except FileNotFoundError as error:
        message = f"building residuum needs Rust, and there is no `{program}`: https://rustup.rs"
        raise RuntimeError(message) from error
    except subprocess.CalledProcessError as error:
        message = f"`{program} {arguments[0]}` failed with exit code {error.returncode}"
        raise RuntimeError(message) from error
    return done.stdout


def build_wheel(
    wheel_directory: str,
    config_settings: Mapping[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build the wheel, extension included (PEP 517); returns its file name."""
    build_extension()
    return str(maturin.build_wheel(wheel_directory, config_settings, metadata_directory))


def build_editable(
    wheel_directory: str,
    config_settings: Mapping[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build in place for an editable install (PEP 660); returns the wheel's file name."""
    build_extension()
    return str(maturin.build_editable(wheel_directory, config_settings, metadata_directory))


def build_sdist(sdist_directory: str, config_settings: Mapping[str, Any] | None = None) -> str:
    """Pack the sources of both libraries (PEP 517); returns the archive's file name.

    maturin packs one library and drops the other from the workspace's Cargo.toml: the archive gets
    ours, unchanged, so that it matches the lock file.
    """
    name: str = maturin.build_sdist(sdist_directory, config_settings)
    archive = Path(sdist_directory) / name
    partial = archive.with_suffix(".partial")
    manifest = (ROOT / "Cargo.toml").read_bytes()
    with tarfile.open(archive) as source, tarfile.open(partial, "w:gz") as target:
        for member in source:
            content = source.extractfile(member)
            if Path(member.name).parts[1:] == ("Cargo.toml",):
                member.size, content = len(manifest), io.BytesIO(manifest)
            target.addfile(member, content)
    partial.replace(archive)
    return name


if __name__ == "__main__":
    sys.stdout.write(f"{build_extension()}\n")
