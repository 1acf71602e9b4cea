"""Inputs to examples: tokenised, selected, hashed. Walked once to check and once to capture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from residuum.capture import images
from residuum.capture.plan import Example, text_hash
from residuum.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from residuum.capture.inputs import Inputs, Records
    from residuum.capture.positions import Positions
    from residuum.capture.tokenise import Tokeniser

CACHED_BYTES = 128 << 20
"""Memory for what the first walk tokenised; more than that is tokenised a second time."""

_TOKEN_BYTES, _EXAMPLE_BYTES = 25, 900
"""What a token and an example take up in that, about."""


@dataclass(frozen=True)
class Survey:
    """What the first walk over the inputs found; for a stream, None: it can be walked only once.

    `longest` and `most_stored` are the most tokens, and stored tokens, of an example.
    """

    n_example: int
    n_token: int
    longest: int
    most_stored: int


class ExampleSource:
    """The examples of some inputs, for a text model or an image model.

    `tokeniser` is None for images, which all have `image_tokens` tokens.
    """

    def __init__(
        self,
        inputs: Inputs,
        positions: Positions,
        *,
        tokeniser: Tokeniser | None,
        image_tokens: int | None,
    ) -> None:
        """Check what can be checked without reading the inputs."""
        positions.check(inputs.schema)
        self.inputs = inputs
        self._positions = positions
        self._tokeniser = tokeniser
        self._image_tokens = image_tokens
        self._cache: list[Example] | None = None

    def survey(self) -> Survey | None:
        """Walk all inputs, so that what is wrong with any of them is known before a store is made.

        Raises:
            InputError: an input that cannot be captured, by its row.
        """
        if self.inputs.streaming:
            return None
        cache: list[Example] | None = []
        n_example = n_token = longest = most_stored = 0
        for example in self._walk():
            n_example += 1
            n_token += example.n_token
            longest = max(longest, example.n_token)
            most_stored = max(most_stored, len(example.positions))
            if cache is not None:
                cache.append(example)
                if n_token * _TOKEN_BYTES + n_example * _EXAMPLE_BYTES > CACHED_BYTES:
                    cache = None
        self._cache = cache
        return Survey(n_example, n_token, longest, most_stored)

    def __iter__(self) -> Iterator[Example]:
        """Walk the examples in order."""
        return iter(self._cache) if self._cache is not None else self._walk()

    def _walk(self) -> Iterator[Example]:
        first = 0
        for records in self.inputs.batches():
            if self._tokeniser is None:
                yield from self._images(records, first)
            else:
                yield from self._texts(records, first, self._tokeniser)
            first += len(records.payload)

    def _texts(self, records: Records, first: int, tokeniser: Tokeniser) -> Iterator[Example]:
        if self.inputs.kind == "image":
            message = "the inputs are images, but the model reads text."
            raise InputError(message)
        marks = self._marks(records)
        tokenised = tokeniser(records.payload, self.inputs.kind, first)
        for index, texts in enumerate(tokenised):
            for text in texts:
                kept = self._positions.select(
                    text.source, text.n_source, marks[index], first + index
                )
                yield Example(
                    record=first + index,
                    origin=records.table,
                    index=index,
                    content=text,
                    n_token=len(text.ids),
                    positions=kept,
                    content_hash=text_hash(text.ids),
                )

    def _images(self, records: Records, first: int) -> Iterator[Example]:
        n_token = self._image_tokens
        if self.inputs.kind != "image" or n_token is None:
            message = "the inputs are text, but the model reads images: give a folder of images."
            raise InputError(message)
        marks = self._marks(records)
        source = np.arange(n_token, dtype=np.int32)
        for index, image in enumerate(records.payload):
            yield Example(
                record=first + index,
                origin=records.table,
                index=index,
                content=image,
                n_token=n_token,
                positions=self._positions.select(source, n_token, marks[index], first + index),
                content_hash=images.content_hash(image),
            )

    def _marks(self, records: Records) -> list[list[object] | None]:
        column = self._positions.column
        if column is None:
            return [None] * len(records.payload)
        marks: list[list[object] | None] = records.table.column(column).to_pylist()
        return marks
