"""Parameters from keywords and from `--set` strings."""

from dataclasses import dataclass

import pytest

from residuum.analyses import params
from residuum.analyses.params import param
from residuum.errors import ArgumentError


@dataclass(frozen=True)
class Example:
    k: int = param(5, "how many", least=1)
    layers: tuple[int, ...] | None = param(None, "which layers", least=0)
    words: tuple[str, ...] = param((), "which words")
    share: float = param(0.5, "how much")
    loud: bool = param(False, "whether to shout")
    site: str | None = param(None, "where")


def check(**values):
    return params.check(Example, values, analysis="example")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("k", "7", 7),
        ("layers", "2", (2,)),
        ("layers", "0:3", (0, 1, 2)),
        ("layers", "0, 4:6", (0, 4, 5)),
        ("layers", "all", None),
        ("layers", "none", None),
        ("words", "a,[SEP]", ("a", "[SEP]")),
        ("share", "1e-3", 1e-3),
        ("loud", "yes", True),
        ("loud", "FALSE", False),
        ("site", "z", "z"),
    ],
)
def test_strings_are_parsed(name, text, value):
    assert getattr(check(**{name: text}), name) == value


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("layers", 2, (2,)),
        ("layers", [0, 2], (0, 2)),
        ("layers", range(2), (0, 1)),
        ("layers", slice(1, 3), (1, 2)),
        ("layers", None, None),
        ("share", 1, 1.0),
        ("k", 3.0, 3),
    ],
)
def test_values_are_converted(name, given, value):
    assert getattr(check(**{name: given}), name) == value


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"kk": 1}, "no parameter 'kk'; its parameters are: k, layers, words, share, loud, site"),
        ({"k": "x"}, "k='x' is not int: it does not read as a number"),
        ({"k": 1.5}, "it has a fraction"),
        ({"k": True}, "it is a truth value"),
        ({"k": 0}, "k=0 is below 1"),
        ({"layers": "0,-1"}, "layers=-1 is below 0"),
        ({"layers": "3:"}, "the range '3:' has no end"),
        ({"layers": slice(1, None)}, "a slice needs an end"),
        ({"loud": "perhaps"}, "say true or false"),
        ({"site": 3}, "is not str or none: it is of type int"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(values, says):
    with pytest.raises(ArgumentError) as raised:
        check(**values)
    assert says in str(raised.value)
    assert str(raised.value).startswith("example")


def test_a_parameter_without_default_is_asked_for():
    @dataclass(frozen=True)
    class Strict:
        site: str = param(params.MISSING, "site to read")

    with pytest.raises(ArgumentError, match="needs the parameter 'site': site to read"):
        params.check(Strict, {}, analysis="strict")


def test_describe_names_types_and_defaults():
    described = {row["name"]: row for row in params.describe(Example)}
    assert described["k"] == {"name": "k", "type": "int", "default": 5, "meaning": "how many"}
    assert described["layers"]["type"] == "list of int or none"
    assert described["words"]["default"] == []
