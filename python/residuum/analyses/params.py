"""Parameters of an analysis: a frozen dataclass whose fields say what they mean.

`param` makes a field, `check` turns keyword arguments (or the strings of `--set name=value`) into
an instance, `describe` lists names, types, defaults and meanings. Types: bool, int, float, str,
tuples of int or str, and any of these or None.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from residuum.errors import ArgumentError

P = TypeVar("P")

NONE_WORDS = ("none", "all", "")
TRUE_WORDS = ("true", "yes", "1", "on")
FALSE_WORDS = ("false", "no", "0", "off")


def param(default: Any, meaning: str, *, least: float | None = None) -> Any:  # noqa: ANN401  a dataclass default
    """A field of a parameter class; `least` is the smallest number allowed."""
    return field(default=default, metadata={"meaning": meaning, "least": least})


def check(kind: type[P], values: Mapping[str, object], *, analysis: str) -> P:
    """An instance of `kind`; strings are parsed, other values checked against the field's type.

    Raises:
        ArgumentError: A name that the analysis has not, or a value that does not fit its type.

    """
    known: dict[str, Field[Any]] = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    unknown = [name for name in values if name not in known]
    if unknown:
        names = ", ".join(known) or "none"
        message = f"{analysis} has no parameter {unknown[0]!r}; its parameters are: {names}"
        raise ArgumentError(message)
    hints = get_type_hints(kind)
    checked = {}
    for name, value in values.items():
        try:
            checked[name] = _convert(value, hints[name])
        except ValueError as error:
            message = f"{analysis}: {name}={value!r} is not {_spell(hints[name])}: {error}"
            raise ArgumentError(message) from error
        _check_least(analysis, known[name], checked[name])
    missing = [n for n, f in known.items() if f.default is MISSING and n not in checked]
    if missing:
        meaning = known[missing[0]].metadata["meaning"]
        message = f"{analysis} needs the parameter {missing[0]!r}: {meaning}"
        raise ArgumentError(message)
    return kind(**checked)


def describe(kind: type) -> list[dict[str, Any]]:
    """Name, type, default and meaning of every parameter, as plain values."""
    hints = get_type_hints(kind)
    rows = []
    for f in fields(kind):
        row = {"name": f.name, "type": _spell(hints[f.name]), "meaning": f.metadata["meaning"]}
        if f.default is not MISSING:
            row["default"] = list(f.default) if isinstance(f.default, tuple) else f.default
        rows.append(row)
    return rows


def _check_least(analysis: str, of: Field[Any], value: object) -> None:
    least = of.metadata["least"]
    if least is None or value is None:
        return
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if number < least:
            message = f"{analysis}: {of.name}={number} is below {least}, the smallest value allowed"
            raise ArgumentError(message)


def _convert(value: object, hint: Any) -> Any:  # noqa: ANN401  what it returns is what `hint` says
    if isinstance(hint, UnionType):
        if value is None or (isinstance(value, str) and value.lower() in NONE_WORDS):
            return None
        (inner,) = (arm for arm in get_args(hint) if arm is not NoneType)
        return _convert(value, inner)
    if get_origin(hint) is tuple:
        return _tuple(value, get_args(hint)[0])
    if hint is bool:
        return _bool(value)
    if hint is str:
        return _str(value)
    return _number(value, hint)


def _tuple(value: object, item: type) -> tuple[Any, ...]:
    if isinstance(value, str):
        parts: Sequence[object] = [part for part in value.split(",") if part]
        if value and not parts:
            reason = "it names nothing; a token of commas is named by its id, id:11"
            raise ValueError(reason)
        if item is int:  # of text, blanks are a part: a token often starts with one
            parts = [number for part in parts for number in _range(str(part).strip())]
    elif isinstance(value, slice):
        if value.stop is None:
            reason = "a slice needs an end"
            raise ValueError(reason)
        parts = range(value.start or 0, value.stop, value.step or 1)
    elif isinstance(value, Sequence):
        parts = value
    else:
        parts = [value]
    return tuple(_convert(part, item) for part in parts)


def _range(text: str) -> list[int]:
    start, colon, stop = text.partition(":")
    if not colon:
        return [_number(text, int)]
    if not stop:
        reason = f"the range {text!r} has no end"
        raise ValueError(reason)
    return list(range(_number(start or "0", int), _number(stop, int)))


def _bool(value: object) -> bool:
    word = str(value).lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    reason = "say true or false"
    raise ValueError(reason)


def _str(value: object) -> str:
    if isinstance(value, str):
        return str(value)
    reason = f"it is of type {type(value).__name__}"
    raise ValueError(reason)


def _number(value: object, kind: type) -> Any:  # noqa: ANN401  int or float, as asked
    if isinstance(value, bool):
        reason = "it is a truth value"
        raise ValueError(reason)
    try:
        number = kind(value)
    except (TypeError, ValueError):
        reason = "it does not read as a number"
        raise ValueError(reason) from None
    if kind is int and not isinstance(value, str) and number != value:
        reason = "it has a fraction"
        raise ValueError(reason)
    return number


def _spell(hint: Any) -> str:  # noqa: ANN401  a type, as `get_type_hints` gives it
    if isinstance(hint, UnionType):
        (inner,) = (arm for arm in get_args(hint) if arm is not NoneType)
        return f"{_spell(inner)} or none"
    if get_origin(hint) is tuple:
        return f"list of {get_args(hint)[0].__name__}"
    return str(hint.__name__)
