"""Your own files: JSON lines, one item a line.

    {"text": "a gripping film", "label": "positive"}
    {"text": "two dull hours", "label": 0}

A line has the fields that the templates name (those of the known sets are listed in `TEMPLATES`)
and `label`: the number of the class, or its word as the first template writes it.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from residuum.errors import InputError
from residuum.prompts.demonstrations.dataset import Dataset, Item, Template
from residuum.prompts.demonstrations.templates import TEMPLATES
from residuum.readers import json_lines


def load(
    path: str | os.PathLike[str], name: str, templates: Sequence[Template] | None = None
) -> Dataset:
    """Read a data set.

    Args:
        path: of the JSON lines, UTF-8; blank lines are no items.
        name: of the set; one of `TEMPLATES` unless templates are given.
        templates: formats of a set of your own.

    Raises:
        InputError: no such file or set, a line that is not JSON, a field that is missing or empty,
            or a label that the set does not have.
    """
    if templates is None:
        if name not in TEMPLATES:
            message = (
                f"there are no templates for {name!r}: give your own, or take one of "
                f"{', '.join(TEMPLATES)}"
            )
            raise InputError(message)
        templates = TEMPLATES[name]
    if not Path(path).is_file():
        message = f"there is no file {path}"
        raise InputError(message)
    items = tuple(
        _item(values, f"line {number} of {path}", templates)
        for number, values in json_lines(Path(path))
    )
    return Dataset(name, items, tuple(templates))


def _item(values: dict[str, object], where: str, templates: Sequence[Template]) -> Item:
    fields = {}
    for name in dict.fromkeys(name for template in templates for name in template.fields):
        text = values.get(name)
        if not isinstance(text, str) or not text.strip():
            message = f"{where} has no text in the field {name!r}, which the template reads"
            raise InputError(message)
        fields[name] = text.strip()
    return Item(fields, _label(values.get("label"), where, templates[0].labels))


def _label(value: object, where: str, labels: Sequence[str]) -> int:
    if isinstance(value, str) and value in labels:
        return labels.index(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(labels):
        return value
    message = (
        f"{where} has the label {value!r}: it is a number from 0 to {len(labels) - 1}, or one of "
        f"{', '.join(labels)}"
    )
    raise InputError(message)
