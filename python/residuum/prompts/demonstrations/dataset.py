"""A classification task: items with a class, and the templates that make demonstrations of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from string import Formatter

from residuum.errors import InputError


@dataclass(frozen=True)
class Template:
    """How a demonstration reads: the input, the label, what ends it.

    Attributes:
        name: the prompt format.
        demonstration: with the item's fields in braces; the label follows at once, so that it ends
            with the blank or line break that parts them.
        labels: the word of each class.
        instruction: before the demonstrations; parted from them as they are from each other.
        end: after a label.
        separator: between two demonstrations.
    """

    name: str
    demonstration: str
    labels: tuple[str, ...]
    instruction: str = ""
    end: str = "."
    separator: str = "\n\n"

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of an item that the demonstration names."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.demonstration) if name)

    def filled(self, fields: Mapping[str, str]) -> str:
        """The demonstration up to its label."""
        return self.demonstration.format_map(fields)


@dataclass(frozen=True)
class Item:
    """An input by its fields, and the number of its class."""

    fields: Mapping[str, str]
    label: int


@dataclass(frozen=True)
class Dataset:
    """Items of one task.

    Attributes:
        name: as it stands in tables.
        items: with classes from 0.
        templates: one or several formats; their labels are of the same classes in the same order.
    """

    name: str
    items: tuple[Item, ...]
    templates: tuple[Template, ...]

    def __post_init__(self) -> None:
        """Refuse classes without items or words."""
        if not self.templates:
            message = f"the data set {self.name} has no template"
            raise InputError(message)
        for template in self.templates:
            if len(template.labels) != self.n_class or self.n_class < 2:
                message = (
                    f"the template {template.name} of {self.name} has {len(template.labels)} "
                    f"labels: each template needs the same number, and at least two"
                )
                raise InputError(message)
        for number, of_class in enumerate(self.by_class):
            if not of_class:
                message = f"the data set {self.name} has no item of class {number}"
                raise InputError(message)

    @property
    def n_class(self) -> int:
        """The number of classes."""
        return len(self.templates[0].labels)

    @cached_property
    def by_class(self) -> tuple[tuple[Item, ...], ...]:
        """The items of each class.

        Raises:
            InputError: an item of a class that the templates have no label for.
        """
        found: list[list[Item]] = [[] for _ in range(self.n_class)]
        for item in self.items:
            if not 0 <= item.label < self.n_class:
                message = (
                    f"an item of {self.name} has the class {item.label}, but there are "
                    f"{self.n_class} labels"
                )
                raise InputError(message)
            found[item.label].append(item)
        return tuple(tuple(of_class) for of_class in found)
