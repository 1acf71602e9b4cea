"""English sentences from the docstrings of the Python standard library, which every machine has.

Walks the library's sources with `ast` (nothing is imported or run), cuts the docstrings into
paragraphs and sentences, keeps what reads as English prose, and drops repeats. The order follows
the file names and the lines, so that one Python version always gives the same corpus.

    python pipelines/docstring_corpus.py -o .cache/demo/docstrings.jsonl
"""

import argparse
import ast
import json
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
)
MIN_WORDS, MAX_WORDS = 5, 40
SENTENCE_END = re.compile(r"(?<=[a-z0-9)'\"`][.!?])\s+(?=[\"'`(]?[A-Z])")
# A reader sees code or a table here, not a sentence.
NOT_PROSE = re.compile(
    r"[][{}<>=|\\_@#*~^+`]|->|\.\.|--|::|\(\)|https?:|[a-z]\.[a-z]|[A-Za-z]/[A-Za-z]|\d:"
    r"|:[a-z]+:|\bXXX\b"
)
WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
# Words without which hardly any English sentence of five words or more gets by.
FUNCTION_WORD = re.compile(
    r"\b(?:an?|and|are|as|at|be|been|but|by|can|do|does|for|from|has|have|if|in|into|is|its?|may"
    r"|must|not|of|on|or|should|so|than|that|the|their|then|there|these|they|this|to|was|when"
    r"|which|will|with|you)\b",
    re.IGNORECASE,
)


class Sentence(TypedDict):
    """One line of the corpus."""

    module: str
    object: str
    text: str


def library_sources(root: Path) -> Iterator[Path]:
    """Sources of the library under `root`, sorted, without tests and installed packages."""
    for path in sorted(root.rglob("*.py")):
        if not SKIPPED_FOLDERS.intersection(path.relative_to(root).parts[:-1]):
            yield path


def docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of the module (name ""), its classes and functions, in order."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{prefix}{child.name}"
                if text := ast.get_docstring(child):
                    yield name, text
                yield from visit(child, f"{name}.")

    if text := ast.get_docstring(tree):
        yield "", text
    yield from visit(tree, "")


def sentences(docstring: str) -> Iterator[str]:
    """Sentences of a docstring's paragraphs; doctests and indented paragraphs are left out."""
    for paragraph in re.split(r"\n\s*\n", docstring):
        if paragraph.startswith((" ", "\t")) or ">>>" in paragraph:
            continue
        for sentence in SENTENCE_END.split(" ".join(paragraph.split())):
            yield sentence.strip()


def is_prose(sentence: str) -> bool:
    """Whether it reads as one English sentence of `MIN_WORDS` to `MAX_WORDS` words."""
    if (
        not sentence[:1].isupper()
        or not sentence.endswith((".", "!", "?"))
        or NOT_PROSE.search(sentence)
    ):
        return False
    if not sentence.isascii() or sentence.count("(") != sentence.count(")"):
        return False
    words = WORD.findall(sentence)
    if not MIN_WORDS <= len(words) <= MAX_WORDS or len(words) < 0.8 * len(sentence.split()):
        return False
    return len(FUNCTION_WORD.findall(sentence)) >= max(1, len(words) // 6)


def build_corpus(root: Path | None = None) -> list[Sentence]:
    """Every distinct sentence of the library, first occurrence kept.

    Args:
        root: folder of library sources; the running Python's standard library when None.
    """
    root = root if root is not None else Path(sysconfig.get_path("stdlib"))
    seen: set[str] = set()
    corpus: list[Sentence] = []
    for path in library_sources(root):
        try:
            tree = ast.parse(path.read_bytes())
        except (
            SyntaxError
        ):  # the library ships a few sources that are broken on purpose, or for Python 2
            continue
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for name, docstring in docstrings(tree):
            for text in sentences(docstring):
                key = text.lower()
                if key not in seen and is_prose(text):
                    seen.add(key)
                    corpus.append({"module": module, "object": name or module, "text": text})
    return corpus


def write_corpus(corpus: list[Sentence], path: Path) -> None:
    """One JSON object a line: `module`, `object`, `text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in corpus), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path(".cache/demo/docstrings.jsonl"))
    output = parser.parse_args().output
    corpus = build_corpus()
    write_corpus(corpus, output)
    print(f"{len(corpus)} sentences -> {output}")
