"""MCQ: a review, two options, and which of them is right.

The items are the options: the label is the entity, the sentiment the attribute. A prompt has two
contexts, that of the options as listed, and `exchanged`, with the sentiments under the other label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from residuum.prompts.binding import lives
from residuum.prompts.binding.draft import Draft
from residuum.prompts.binding.fit import Tokenise, first_token

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

LABELS = ("A", "B")
SENTIMENTS = ("positive", "negative")
N_SENTENCE = 2


def write(review: str, sentiments: tuple[str, ...]) -> Draft:
    """The prompt of a review; each option line ends with its line break."""
    draft = Draft()
    draft.add(f"Is the review positive or negative? Say the letter.\n\nReview: {review}\n")
    for slot, (label, sentiment) in enumerate(zip(LABELS, sentiments, strict=True)):
        start = len(draft.text)
        draft.entity(slot, label)
        draft.add(". ")
        draft.attribute(slot, sentiment)
        _, end = draft.add("\n")
        draft.options[slot] = (start, end)
    draft.ask("Answer:")
    return draft


def rows(tokenise: Tokenise, *, n: int, seed: int) -> Iterator[dict[str, Any]]:
    """Two rows for each of `n` prompts: the options as listed and exchanged."""
    for prompt_id in range(n):
        rng = np.random.default_rng([seed, prompt_id])
        good = bool(rng.integers(2))
        listed = SENTIMENTS if rng.integers(2) else SENTIMENTS[::-1]
        sentences = rng.permutation(lives.GOOD if good else lives.BAD)[:N_SENTENCE]
        right = SENTIMENTS[0 if good else 1]
        for context, order in (("default", listed), ("exchanged", listed[::-1])):
            draft = write(" ".join(sentences), order)
            answers = [f" {label}" for label in LABELS]
            yield {
                "text": draft.text,
                "prompt_id": prompt_id,
                "task": "MCQ",
                "n_entities": len(LABELS),
                "split": "test",
                "context": context,
                "rotation": 0,
                "seed": seed,
                "query_slot": order.index(right),
                "query_kind": "own",
                "partner": [0, 1],
                "entity_order": [0, 1],
                "attr_order": [0, 1] if context == "default" else [1, 0],
                "entities": list(LABELS),
                "attributes": list(order),
                "entity_span": [list(draft.entities[slot]) for slot in range(len(LABELS))],
                "attr_span": [list(draft.attributes[slot]) for slot in range(len(LABELS))],
                "option_span": [list(draft.options[slot]) for slot in range(len(LABELS))],
                "question_start": draft.question,
                "entity_width": 1,
                "attr_width": 1,
                "answers": answers,
                "answer_token_ids": [first_token(tokenise, draft.text, one) for one in answers],
            }
