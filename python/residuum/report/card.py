"""The head of the page: what the store is, from the plain values of `residuum info --json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True)
class StoreCard:
    """What the head of the page says about the store: a name, facts, and a row per site."""

    name: str
    facts: Mapping[str, str]
    sites: Sequence[Mapping[str, object]] = field(default_factory=tuple)

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "StoreCard":
        """The card of a store, from `Store.info()`."""
        model, rows = info["model"], info["rows"]
        facts = {
            "Model": str(model.get("name") or "without a name"),
            "Architecture": _architecture(model),
            "Examples": f"{info['n_example']:,}",
            "Stored tokens": f"{rows['token']:,}",
            "Sizes": _sizes(model),
            "Vocabulary": f"{model['d_vocab']:,} tokens" if model.get("d_vocab") else "",
            "On disk": _bytes(info["bytes"]),
        }
        if not info["complete"]:
            facts["State"] = "capture not finished"
        sites = [_site(name, site) for name, site in info["sites"].items()]
        return cls(PurePath(info["path"]).name, {k: v for k, v in facts.items() if v}, sites)


def _architecture(model: Mapping[str, Any]) -> str:
    return str(model.get("architecture") or model.get("family") or "")


def _sizes(model: Mapping[str, Any]) -> str:
    named = {"n_layer": "layers", "n_head": "heads", "d_model": "wide"}
    known = [f"{model[k]:,} {word}" for k, word in named.items() if model.get(k)]
    return ", ".join(known)


def _site(name: str, site: Mapping[str, Any]) -> dict[str, object]:
    lengths = zip(site["axes"], site["shape"], strict=True)
    layers = site["layers"]
    return {
        "site": name,
        "shape": ", ".join(f"{axis} {length:,}" for axis, length in lengths),
        "layers": "" if layers is None else _ranges(layers),
        "dtype": site["stored_as"],
        "size": _bytes(site["nbytes"]),
    }


def _ranges(numbers: Sequence[int]) -> str:
    """`0-3, 7` for 0, 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _bytes(n: int) -> str:
    value, at = float(n), 0
    while value >= 999.5 and at < len(UNITS) - 1:
        value, at = value / 1000, at + 1
    return f"{n} bytes" if at == 0 else f"{value:.3g} {UNITS[at]}"
