"""Names, texts and file names as they are written in SQL."""

import os
import re
from collections.abc import Iterable

_GLOB = re.compile(r"[*?\[]")


def text(value: str) -> str:
    """A string literal."""
    return "'" + value.replace("'", "''") + "'"


def name(value: str) -> str:
    """An identifier."""
    return '"' + value.replace('"', '""') + '"'


def parquet(files: Iterable[os.PathLike[str]]) -> str:
    """A table function that reads exactly these files.

    DuckDB takes file names for patterns: a sign that means something there goes into brackets, in
    which it means itself.
    """
    names = ", ".join(text(_GLOB.sub(r"[\g<0>]", str(file))) for file in files)
    return f"read_parquet([{names}], union_by_name := true, hive_partitioning := false)"
