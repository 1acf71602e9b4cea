"""The exception tree: one class per thing a caller would do differently.

Every class is also the builtin that a caller would guess. The message is one paragraph that names
the file or value and what to do about it.
"""


class ResiduumError(Exception):
    """Anything that residuum raises on purpose."""


class StoreError(ResiduumError, OSError):
    """A store is missing, damaged, incomplete or of another kind than asked for."""


class SiteError(ResiduumError, KeyError, IndexError, ValueError):
    """A site by its name, or a layer or head by its number, that is not there or not captured."""

    def __str__(self) -> str:
        """Return the message itself; `KeyError` alone would quote it."""
        return str(self.args[0]) if self.args else ""


class InputError(ResiduumError, ValueError):
    """The user's input (texts, tables, images) cannot be captured as it is."""


class ModelError(ResiduumError, ValueError):
    """A model cannot be loaded or has no adapter."""


class CaptureError(ResiduumError, RuntimeError):
    """A capture cannot go on."""


class SelectionError(ResiduumError, IndexError):
    """Rows outside an array, or what cannot select from one; layers and heads are `SiteError`."""


class ArgumentError(ResiduumError, ValueError):
    """A value handed to a function is of the wrong shape, dtype or range."""


class QueryError(ResiduumError, RuntimeError):
    """A store cannot be asked in SQL; what DuckDB says about a query stays DuckDB's own error."""
