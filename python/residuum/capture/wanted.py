"""Sites, each with its layers: what a capture asks for, what a store has, what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from residuum.sites import Site

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from residuum.store import Store


@dataclass(frozen=True)
class Wanted:
    """Sites in the order of the vocabulary, each with its layers, ascending; () where it has none.

    False where there is no site.
    """

    layers: Mapping[Site, tuple[int, ...]]

    @classmethod
    def of(cls, sites: Iterable[Site], layers: Sequence[int] | None, n_layer: int) -> Wanted:
        """The same layers of each site; None is all of the model's."""
        chosen = tuple(range(n_layer)) if layers is None else tuple(layers)
        return cls._ordered({site: chosen if site.has_layers else () for site in sites})

    @classmethod
    def stored(cls, store: Store) -> Wanted:
        """What readers of a store see."""
        return cls._ordered({Site(name): store[name].layers for name in store.sites})

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Wanted:
        """The inverse of `record`."""
        return cls._ordered({Site(name): tuple(layers or ()) for name, layers in record.items()})

    @classmethod
    def _ordered(cls, layers: Mapping[Site, tuple[int, ...]]) -> Wanted:
        return cls({site: layers[site] for site in Site if site in layers})

    def record(self) -> dict[str, list[int] | None]:
        """As JSON: layers by site, null for a site without layers."""
        return {
            site.value: list(layers) if site.has_layers else None
            for site, layers in self.layers.items()
        }

    def minus(self, other: Wanted) -> Wanted:
        """What the other one lacks."""
        missing = {}
        for site, layers in self.layers.items():
            there = other.layers.get(site)
            left = tuple(layer for layer in layers if layer not in (there or ()))
            if there is None or left:
                missing[site] = left
        return Wanted(missing)

    def plus(self, other: Wanted) -> Wanted:
        """Both together."""
        both = {
            site: tuple(sorted({*self.layers.get(site, ()), *other.layers.get(site, ())}))
            for site in {*self.layers, *other.layers}
        }
        return self._ordered(both)

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.layers)

    def difference(self, asked: Wanted) -> str:
        """How what is asked for differs from this, in words, to tell the user."""
        for site in asked.layers:
            if site not in self.layers:
                break
        else:
            for site, layers in self.layers.items():
                here = asked.layers.get(site)
                if here is not None and here != layers:
                    return f"layers is {_text(layers)} there, {_text(here)} here"
        return f"sites is {_text(self.layers)} there, {_text(asked.layers)} here"


def _text(values: Iterable[object]) -> str:
    text = ", ".join(map(str, values))
    return text if len(text) <= 40 else f"{text[:37]}..."
