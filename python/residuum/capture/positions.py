"""Which tokens of an example are stored: all, the last, the first, or those that a column marks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from residuum.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

COLUMN_PREFIX = "column:"


@dataclass(frozen=True)
class Positions:
    """A parsed position selection; `column` is set for `column:NAME`."""

    which: Literal["all", "last", "first", "column"]
    column: str | None = None

    @classmethod
    def parse(cls, text: str) -> Positions:
        """Parse `all`, `last`, `first` or `column:NAME`.

        Raises:
            InputError: any other text.
        """
        named: dict[str, Literal["all", "last", "first"]]
        named = {"all": "all", "last": "last", "first": "first"}
        if text in named:
            return cls(named[text])
        name = text.removeprefix(COLUMN_PREFIX)
        if name and name != text:
            return cls("column", name)
        message = f"positions {text!r}: choose all, last, first or column:NAME."
        raise InputError(message)

    def __str__(self) -> str:
        """The text that `parse` reads."""
        return self.which if self.column is None else f"{COLUMN_PREFIX}{self.column}"

    def check(self, schema: pa.Schema) -> None:
        """Check that the marking column is there and holds lists of booleans or of positions.

        Raises:
            InputError: it does not.
        """
        if self.column is None:
            return
        if self.column not in schema.names:
            there = ", ".join(f"`{c}`" for c in schema.names)
            message = (
                f"--positions {self}: there is no column `{self.column}`; the columns are {there}."
            )
            raise InputError(message)
        kind = schema.field(self.column).type
        if (
            pa.types.is_list(kind)
            or pa.types.is_large_list(kind)
            or pa.types.is_fixed_size_list(kind)
        ):
            item = kind.value_type
            if pa.types.is_boolean(item) or pa.types.is_integer(item):
                return
        message = (
            f"--positions {self}: the column is {kind}; it must hold, for each text, a list with "
            "one boolean "
            "for each token or a list of token positions."
        )
        raise InputError(message)

    def select(
        self,
        source: NDArray[np.int32],
        n_source: int,
        marks: Sequence[object] | None,
        row: int,
    ) -> NDArray[np.int32]:
        """The positions of one example that are stored, ascending.

        Args:
            source: which token of its whole text each token is, int32 `[token]`.
            n_source: how many tokens the whole text has.
            marks: the marking column's value for the text.
            row: the input's number, for messages.

        Raises:
            InputError: marks of the wrong length or out of range.
        """
        if self.which == "all":
            return np.arange(len(source), dtype=np.int32)
        if self.which == "last":
            return np.array([len(source) - 1], dtype=np.int32)
        if self.which == "first":
            return np.array([0], dtype=np.int32)
        marked = self._marked(marks, n_source, row)
        return np.flatnonzero(marked[source]).astype(np.int32)

    def _marked(self, marks: Sequence[object] | None, n_source: int, row: int) -> NDArray[np.bool_]:
        """One boolean for each token of the whole text."""
        values = [] if marks is None else list(marks)
        if any(value is None for value in values):
            message = f"row {row}: `{self.column}` has an empty entry."
            raise InputError(message)
        if values and isinstance(values[0], bool):
            if len(values) != n_source:
                message = (
                    f"row {row}: `{self.column}` marks {len(values)} tokens, but the text has "
                    f"{n_source} "
                    "(with the special ones)."
                )
                raise InputError(message)
            return np.array(values, dtype=np.bool_)
        positions = np.array(values, dtype=np.int64)
        out = positions[(positions < 0) | (positions >= n_source)]
        if len(out):
            message = (
                f"row {row}: `{self.column}` marks token {out[0]}, but the text has tokens 0 to "
                f"{n_source - 1}."
            )
            raise InputError(message)
        marked = np.zeros(n_source, dtype=np.bool_)
        marked[positions] = True
        return marked
