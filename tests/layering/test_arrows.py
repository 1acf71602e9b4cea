"""Imports point one way: capture -> store <- query, kernels <- analyses <- report."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "python" / "residuum"

# What each part may import of ours, beside itself. Only the doors see everything.
BASE = {"errors", "sites", "_residuum"}
SHARED = {"progress", "quantities", "readers"}  # by those who take in and give out
ARROWS = {
    "errors": set(),
    "sites": {"errors"},
    "store": BASE,
    "progress": {"store"},
    "quantities": {"errors"},
    "readers": {"errors"},
    "capture": {"store", *SHARED, *BASE},
    "query": {"store", *BASE},
    "kernels": {"store", *BASE},
    "exchange": {"store", "query", *SHARED, *BASE},
    "analyses": {"store", "query", "kernels", "replay", "lenses", "clip", "quantities", *BASE},
    "clip": {"store", "kernels", "quantities", "replay", *BASE},
    "lenses": {"store", "kernels", "replay", "progress", "quantities", *BASE},
    "replay": {"store", "kernels", "progress", "quantities", *BASE},
    "prompts": {"errors", "readers"},
    "report": {"analyses", "errors", "sites"},
}
DOORS = {"__init__", "__main__", "cli"}
MODEL_LIBRARIES = {"torch", "transformers"}
# `store["z"].torch()` hands tensors to those who have torch; it is imported when called.
# `torch.save` files are torch's own; it is imported when one is read.
TENSORS = {
    "clip/gradient_maps.py",
    "lenses/published.py",
    "lenses/torch_kit.py",
    "replay/opening.py",
    "replay/torch_attention.py",
    "replay/torch_blocks.py",
    "replay/torch_gradients.py",
    "replay/torch_kit.py",
    "store/tensors.py",
    "store/site_array.py",
    "exchange/torch_files.py",
}


def part_of(path: Path) -> str:
    """The first name under the package: `store` for store/reader.py, `cli` for cli.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute module name) of every import of a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the whole name of the module"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def ours(path: Path) -> Iterator[tuple[int, str]]:
    """(line, part) of every import of a part of this package."""
    for line, name in imports(path):
        pieces = name.split(".")
        if pieces[0] == "residuum" and len(pieces) > 1:
            yield line, pieces[1]


SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_every_part_has_its_arrows() -> None:
    parts = {part_of(path) for path in SOURCES}
    assert parts <= ARROWS.keys() | DOORS | {"zarr_bfloat16"}, (
        "give the new part its line in ARROWS"
    )
    assert ARROWS.keys() <= parts


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    part = part_of(path)
    if part in DOORS:
        return
    allowed = ARROWS.get(part, set()) | {part}
    wrong = [
        f"line {line}: {part} imports {name}" for line, name in ours(path) if name not in allowed
    ]
    assert not wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_capture_imports_model_libraries(path: Path) -> None:
    if part_of(path) == "capture" or path.relative_to(PACKAGE).as_posix() in TENSORS:
        return
    wrong = [
        f"line {line}: {name}"
        for line, name in imports(path)
        if name.split(".")[0] in MODEL_LIBRARIES
    ]
    assert not wrong
