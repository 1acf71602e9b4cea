"""Text that remembers where its words are."""

from __future__ import annotations

from dataclasses import dataclass, field

Span = tuple[int, int]
"""First character, and the one after the last."""


@dataclass
class Draft:
    """A prompt while it is written.

    Attributes:
        entities, attributes, options: span of each slot's word, by slot; of an option line, from
            its label to behind its line break.
        question: the first character of the question.
    """

    text: str = ""
    entities: dict[int, Span] = field(default_factory=dict)
    attributes: dict[int, Span] = field(default_factory=dict)
    options: dict[int, Span] = field(default_factory=dict)
    question: int = 0

    def add(self, text: str) -> Span:
        """Write on, and say where that is."""
        start = len(self.text)
        self.text += text
        return start, len(self.text)

    def entity(self, slot: int, word: str) -> None:
        """Write the entity of a slot."""
        self.entities[slot] = self.add(word)

    def attribute(self, slot: int, word: str) -> None:
        """Write the attribute of a slot."""
        self.attributes[slot] = self.add(word)

    def ask(self, text: str) -> None:
        """Write the question: what is read freely, while all before it is frozen."""
        self.question, _ = self.add(text)
