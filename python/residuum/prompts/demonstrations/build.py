"""Build prompts: pairs of the same demonstrations in the same order, labelled rightly and wrongly.

For each demonstration a class is drawn evenly, then an item of it that the prompt does not have yet
(the reference's sampling). Each prompt has one cyclic shift of classes, from 1 to C - 1. What is
drawn depends on the seed, the data set's name and the prompt's number alone, so that all settings
(and formats, without a context) show the same items, and more prompts begin with the fewer.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from residuum.errors import InputError
from residuum.prompts.demonstrations.dataset import Dataset, Item, Template
from residuum.prompts.demonstrations.first_tokens import Encode, before_labels, first_tokens

SETTINGS = ("permuted", "half_permuted", "random")
MOST_DRAWS = 1000
"""Items that are drawn for one place of a prompt until one is short enough."""


@dataclass(frozen=True)
class _Limit:
    """No more than `mean` tokens for a demonstration, on average over those drawn so far."""

    encode: Encode
    mean: float

    def excess(self, template: Template, item: Item) -> float:
        """Tokens of a demonstration above the mean."""
        text = template.filled(item.fields) + template.labels[item.label] + template.end
        return sum(1 for _ in self.encode(text + template.separator)) - self.mean


def build(
    dataset: Dataset,
    *,
    n_prompt: int,
    n_demo: int,
    settings: Sequence[str] = ("permuted",),
    seed: int = 0,
    encode: Encode | None = None,
    context: int | None = None,
) -> list[dict[str, Any]]:
    """Prompts of a data set in all of its formats.

    Args:
        dataset: where items come from.
        n_prompt: pairs of each format and setting.
        n_demo: demonstrations of a prompt; the last is the one that is evaluated.
        settings: of `SETTINGS`: permuted labels, each demonstration permuted with probability one
            half, or labels drawn evenly.
        seed: of all draws.
        encode: text to tokens, which checks that labels can be told apart by their first token, and
            says where the tokens before labels are.
        context: tokens that a prompt may have on average, measured by `encode`.

    Returns:
        two rows for each pair: prompt_id, dataset, prompt_format, setting, prefix (`true` or
        `false`), text, labels (a word for each class), and by demonstration true_label,
        shown_label, label_start and label_end (characters of `text`). With `encode` also
        pre_label_token, the positions of the tokens before labels, and query_token, a list of the
        last of them: what `positions="column:…"` of a capture takes.

    Raises:
        InputError: an unknown setting, no prompt, fewer items than demonstrations, labels that
            begin with the same token, or items too long for the context.
    """
    settings = (settings,) if isinstance(settings, str) else settings
    _check(dataset, n_prompt, n_demo, settings)
    rows: list[dict[str, Any]] = []
    for template in dataset.templates:
        limit = None
        if encode is not None:
            first_tokens(dataset, template, encode)
        if context is not None:
            if encode is None:
                message = "a context is counted in tokens: give `encode` too"
                raise InputError(message)
            limit = _Limit(encode, context / n_demo)
        for prompt in range(n_prompt):
            rng = np.random.default_rng(_seeds(dataset, seed, prompt))
            items = _drawn(dataset, template, n_demo, rng, limit)
            for setting in settings:
                rows += _pair(dataset, template, setting, items, seed, prompt)
    if encode is not None:
        for row in rows:
            row["pre_label_token"] = before_labels(row["text"], row["label_start"], encode)
            row["query_token"] = row["pre_label_token"][-1:]
    return rows


def _check(dataset: Dataset, n_prompt: int, n_demo: int, settings: Sequence[str]) -> None:
    unknown = [setting for setting in settings if setting not in SETTINGS]
    if unknown:
        message = f"there is no setting {unknown[0]!r}; there are {', '.join(SETTINGS)}"
        raise InputError(message)
    if n_prompt < 1:
        message = f"n_prompt={n_prompt}: a study needs 1 prompt or more"
        raise InputError(message)
    if not 1 <= n_demo <= len(dataset.items):
        message = (
            f"{dataset.name} has {len(dataset.items)} items, and a prompt of {n_demo} "
            "demonstrations repeats none"
        )
        raise InputError(message)


def _drawn(
    dataset: Dataset, template: Template, n_demo: int, rng: Generator, limit: _Limit | None
) -> list[Item]:
    """The items of a prompt, shuffled."""
    left = [list(range(len(items))) for items in dataset.by_class]
    chosen: list[Item] = []
    total = 0.0
    for place in range(n_demo):
        for _ in range(MOST_DRAWS):
            label = int(rng.choice([c for c, there in enumerate(left) if there]))
            at = int(rng.integers(len(left[label])))
            item = dataset.by_class[label][left[label][at]]
            # How far the prompt is ahead of its mean length, in tokens.
            ahead = 0.0 if limit is None else total + limit.excess(template, item)
            if ahead <= 0:
                break
        else:
            message = (
                f"no item of {dataset.name} is short enough for place {place} of a prompt of "
                f"{n_demo} demonstrations: take fewer, shorter items, or a larger context"
            )
            raise InputError(message)
        total = ahead
        del left[label][at]
        chosen.append(item)
    return [chosen[i] for i in rng.permutation(n_demo)]


def _seeds(dataset: Dataset, seed: int, prompt: int) -> list[int]:
    return [seed, zlib.crc32(dataset.name.encode()), prompt]


def shown_labels(
    setting: str, true: Sequence[int], n_class: int, seeds: Sequence[int]
) -> list[int]:
    """The labels of a false prefix, from those that are true; `seeds` are of the prompt."""
    # A stream of its own for each kind of draw, so that no setting changes another's.
    shift = int(np.random.default_rng([*seeds, 1]).integers(1, n_class))
    permuted = [(label + shift) % n_class for label in true]
    if setting == "permuted":
        return permuted
    if setting == "half_permuted":
        keep = np.random.default_rng([*seeds, 2]).random(len(true)) < 0.5
        return [t if k else p for t, p, k in zip(true, permuted, keep, strict=True)]
    return [int(i) for i in np.random.default_rng([*seeds, 3]).integers(n_class, size=len(true))]


def _pair(
    dataset: Dataset, template: Template, setting: str, items: list[Item], seed: int, prompt: int
) -> list[dict[str, Any]]:
    true = [item.label for item in items]
    false = shown_labels(setting, true, dataset.n_class, _seeds(dataset, seed, prompt))
    head = {"prompt_id": prompt, "dataset": dataset.name, "prompt_format": template.name}
    return [
        {
            **head,
            "setting": setting,
            "prefix": prefix,
            "labels": list(template.labels),
            "true_label": true,
            **_written(template, items, shown),
        }
        for prefix, shown in (("true", true), ("false", false))
    ]


def _written(template: Template, items: list[Item], shown: list[int]) -> dict[str, Any]:
    """The text with these labels, and where they stand in it."""
    text = template.instruction + template.separator if template.instruction else ""
    start: list[int] = []
    end: list[int] = []
    for number, (item, label) in enumerate(zip(items, shown, strict=True)):
        text += (template.separator if number else "") + template.filled(item.fields)
        start.append(len(text))
        text += template.labels[label]
        end.append(len(text))
        text += template.end
    return {"text": text, "shown_label": shown, "label_start": start, "label_end": end}
