"""Tasks: the pairs of prompts of one data set, format and setting, as arrays."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from residuum.errors import ArgumentError

if TYPE_CHECKING:
    from residuum.analyses.overthinking.demos import Ints

PREFIXES = ("true", "false")
NUMBERS = (
    "prompt_id",
    "demo",
    "n_demo",
    "n_class",
    "true_label",
    "shown_label",
    "row",
    "pre_label_token",
    "first_token_id",
)
FEW = 2
"""The least pairs of a task; means of fewer have no error."""


@dataclass(frozen=True, eq=False)
class Task:
    """Pairs of a right and a wrong prompt that share inputs, order and query.

    Attributes:
        true: int64 `[pair, demo]`, classes.
        shown: the same, as the false prefix labels them.
        token_id: int64 `[class]`, the first token of each label.
        row: int64 `[pair, prefix, demo]`, of the token before a label; -1 if it was not stored.
        token: int64 `[pair, prefix, demo]`, its position.
    """

    dataset: str
    format: str
    setting: str
    true: "Ints"
    shown: "Ints"
    token_id: "Ints"
    row: "Ints"
    token: "Ints"

    @property
    def n_class(self) -> int:
        """Classes, and the inverse of chance."""
        return len(self.token_id)

    @property
    def last(self) -> int:
        """The demonstration that is evaluated."""
        return int(self.true.shape[1]) - 1

    def stored(self) -> list[int]:
        """The demonstrations whose token before the label is stored in all prompts."""
        return [int(demo) for demo in np.flatnonzero((self.row >= 0).all((0, 1)))]


def tasks_of(demos: pa.Table, path: object) -> list[Task]:
    """The tasks of a table of demonstrations, in the order in which they come.

    Raises:
        ArgumentError: prompts that are no pairs, of different lengths, or labels that cannot be
            told apart by their first token.
    """
    names = ("dataset", "prompt_format", "setting")
    keys = list(zip(*(demos[name].to_pylist() for name in names), strict=True))
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    of = np.array([numbers[key] for key in keys])
    columns = {name: np.asarray(demos[name].fill_null(-1).to_numpy(), np.int64) for name in NUMBERS}
    columns["prefix"] = np.array([PREFIXES.index(p) for p in demos["prefix"].to_pylist()])
    made = []
    for key, number in numbers.items():
        mine = {name: values[of == number] for name, values in columns.items()}
        made.append(_task(key, mine, path))
    return made


def _task(key: tuple[str, str, str], given: dict[str, NDArray[np.int64]], path: object) -> Task:
    where = f"{', '.join(key)} of {path}"
    n_demo, n_class = np.unique(given["n_demo"]), np.unique(given["n_class"])
    if len(n_demo) != 1 or len(n_class) != 1:
        message = f"the prompts of {where} differ in their number of demonstrations or labels"
        raise ArgumentError(message)
    order = np.lexsort((given["demo"], given["prefix"], given["prompt_id"]))
    shape = (-1, 2, int(n_demo[0]))
    prompts, counts = np.unique(given["prompt_id"], return_counts=True)
    whole = {name: values[order] for name, values in given.items()}
    paired = (counts == 2 * n_demo[0]).all()
    if not paired or (whole["prefix"].reshape(shape) != np.array([[0], [1]])).any():
        message = f"the prompts of {where} are no pairs of a true and a false prefix"
        raise ArgumentError(message)
    if len(prompts) < FEW:
        message = f"{where} has {len(prompts)} pair of prompts; there have to be {FEW} at least"
        raise ArgumentError(message)
    shaped = {name: values.reshape(shape) for name, values in whole.items()}
    if (shaped["true_label"][:, 0] != shaped["true_label"][:, 1]).any():
        message = f"the two prompts of a pair of {where} have different true labels"
        raise ArgumentError(message)
    return Task(
        *key,
        true=shaped["true_label"][:, 0],
        shown=shaped["shown_label"][:, 1],
        token_id=_first_tokens(whole, int(n_class[0]), where),
        row=shaped["row"],
        token=shaped["pre_label_token"],
    )


def _first_tokens(given: dict[str, NDArray[np.int64]], n_class: int, where: str) -> "Ints":
    """The first token of each class's label, as it stands in the prompts."""
    found = np.empty(n_class, np.int64)
    for label in range(n_class):
        tokens = np.unique(given["first_token_id"][given["shown_label"] == label])
        if len(tokens) != 1:
            how = "is never shown" if not len(tokens) else f"begins with tokens {tokens.tolist()}"
            message = f"label {label} of {where} {how}: each label needs one first token"
            raise ArgumentError(message)
        found[label] = tokens[0]
    if len(np.unique(found)) != n_class:
        message = (
            f"labels of {where} begin with the same token ({found.tolist()}) and cannot be told "
            "apart: choose other label words"
        )
        raise ArgumentError(message)
    return found
