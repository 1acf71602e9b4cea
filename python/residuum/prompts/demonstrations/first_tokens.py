"""The first token of each label, where it stands in a demonstration."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from residuum.errors import InputError
from residuum.prompts.demonstrations.dataset import Dataset, Template

Encode: TypeAlias = Callable[[str], Iterable[tuple[int, int, int]]]
"""Text to its tokens: (id, first character, the one behind the last); special ones are (id, 0, 0).

With a fast tokenizer of transformers:

    def encode(text):
        made = tokenizer(text, return_offsets_mapping=True)
        return [(i, a, b) for i, (a, b) in zip(made.input_ids, made.offset_mapping, strict=True)]
"""


def first_tokens(dataset: Dataset, template: Template, encode: Encode) -> list[int]:
    """The id of each label's first token; only that one is scored (section 3 of the paper).

    Raises:
        InputError: two labels begin with the same token, so that they cannot be told apart, or a
            label shares a token with what stands before it.
    """
    before = template.filled(dataset.by_class[0][0].fields)
    found: list[int] = []
    for label in template.labels:
        start = len(before)
        span = range(start, start + len(label))
        token = next(
            (one for one in encode(before + label + template.end) if one[2] > span.start), None
        )
        # The blank before a label may be part of its token, but nothing else.
        if token is None or before[token[1] : start].strip():
            message = (
                f"the label {label!r} of {dataset.name} ({template.name}) has no token of its own "
                "behind the text before it: end the template's demonstration with a blank"
            )
            raise InputError(message)
        found.append(token[0])
    for number, token_id in enumerate(found):
        if token_id in found[:number]:
            first, second = template.labels[found.index(token_id)], template.labels[number]
            message = (
                f"the labels {first!r} and {second!r} of {dataset.name} ({template.name}) begin "
                f"with the same token, {token_id}: choose words that differ in their first token"
            )
            raise InputError(message)
    return found


def before_labels(text: str, starts: Sequence[int], encode: Encode) -> list[int]:
    """Positions of the tokens before labels that begin at these characters, ascending."""
    ends = np.array([end for _, _, end in encode(text)])
    # Special tokens at the end stand at (0, 0), as those in front do.
    ends = np.maximum.accumulate(ends)
    return [int(at) - 1 for at in np.searchsorted(ends, starts, side="right")]
