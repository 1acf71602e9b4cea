"""Tables that the user adds to a store: labels, groups, judgements; joined in SQL."""

import re

import pyarrow as pa
import pyarrow.parquet

from residuum.errors import ArgumentError, StoreError
from residuum.sites import Site
from residuum.store.parts import EXAMPLES, TOKENS, part_name, write_part
from residuum.store.s3_path import StorePath

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PART = part_name(0)


def names(tables: StorePath) -> list[str]:
    """Names of the user's tables, sorted."""
    return sorted(
        path.parent.name
        for path in tables.glob(f"*/{_PART}")
        if path.parent.name not in (EXAMPLES, TOKENS)
    )


def write(tables: StorePath, name: str, table: pa.Table, *, replace: bool) -> None:
    """Keep a table under a name, whole or not at all.

    Raises:
        ArgumentError: a name that is taken by residuum or no identifier, or columns of one name.
        StoreError: the store has such a table already and `replace` is false.
    """
    taken = {EXAMPLES, TOKENS, *(site.value for site in Site)}
    if not _NAME.fullmatch(name) or name.lower() in taken:
        reason = "residuum uses it itself" if name.lower() in taken else "use letters, digits and _"
        message = f"{name!r} cannot be the name of a table: {reason}"
        raise ArgumentError(message)
    folded = [column.lower() for column in table.column_names]
    repeated = sorted({column for column in folded if folded.count(column) > 1})
    if repeated:
        message = f"the table {name} has more than one column called `{repeated[0]}`"
        raise ArgumentError(message)
    if (tables / name / _PART).exists() and not replace:
        message = (
            f"the store has a table {name} already; say replace=True to put this one in its place"
        )
        raise StoreError(message)
    write_part(tables / name, _PART, table)


def path(tables: StorePath, name: str) -> StorePath:
    """The file of a user table.

    Raises:
        StoreError: there is none of that name; the message lists those there are.
    """
    file = tables / name / _PART
    if not _NAME.fullmatch(name) or not file.is_file():
        known = ", ".join([EXAMPLES, TOKENS, *names(tables)])
        message = f"there is no table {name!r}; there are {known}"
        raise StoreError(message)
    return file
