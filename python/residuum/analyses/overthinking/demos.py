"""Where labels stand: from the characters that prompts name to tokens and rows of the store.

Positions come from the offsets of the tokens table, which the tokenizer gave for the whole prompt.
Taking the pieces of a prompt apart and adding up their lengths, as the paper's code does, goes
wrong with tokenizers that open every piece with a token of their own.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from residuum.errors import ArgumentError

if TYPE_CHECKING:
    from residuum.store import Store

Ints = NDArray[np.int64]

GIVEN = ("prompt_id", "dataset", "prompt_format", "setting", "prefix")
LISTS = ("true_label", "shown_label", "label_start", "label_end")
COLUMNS = (*GIVEN, "labels", *LISTS)
"""The columns of `examples` that make a prompt of demonstrations."""


def demo_table(
    store: "Store", datasets: tuple[str, ...] | None, settings: tuple[str, ...] | None
) -> pa.Table:
    """One row per demonstration of every example: labels, and where they stand.

    Columns: example, those of `GIVEN`, demo, n_demo, n_class, true_label, shown_label, row (of the
    token before the label; null if it was not stored), pre_label_token, label_tokens (a list) and
    first_token_id.

    Raises:
        ArgumentError: no example of these data sets and settings, or a label without tokens.
    """
    examples = _chosen(store, datasets, settings)
    n_demo = pc.list_value_length(examples["true_label"]).to_numpy()
    whole = {name: _flat(examples[name]) for name in LISTS}
    if any(len(values) != n_demo.sum() for values in whole.values()):
        message = f"{store.path}: lists of labels and their places have different lengths"
        raise ArgumentError(message)
    of = np.repeat(np.arange(examples.num_rows), n_demo)
    first, last, tokens = _label_places(store, examples["example"].to_numpy()[of], whole)
    n_class = pc.list_value_length(examples["labels"]).to_numpy()[of]
    begin = np.concatenate(([0], np.cumsum(n_demo)[:-1]))
    position = tokens["token"].to_numpy()
    row = tokens["row"].take(pa.array(first - 1))
    keys = pa.ListArray.from_arrays(
        pa.array(np.concatenate(([0], np.cumsum(last - first + 1))), pa.int32()),
        pa.array(np.concatenate([position[a : b + 1] for a, b in zip(first, last, strict=True)])),
    )
    taken = {name: examples[name].take(pa.array(of)) for name in ("example", *GIVEN)}
    return pa.table(
        {
            **taken,
            "demo": np.arange(len(of)) - begin[of],
            "n_demo": n_demo[of],
            "n_class": n_class,
            "true_label": whole["true_label"],
            "shown_label": whole["shown_label"],
            "row": row,
            "pre_label_token": position[first - 1],
            "label_tokens": keys,
            "first_token_id": tokens["token_id"].to_numpy()[first],
        }
    )


def _chosen(
    store: "Store", datasets: tuple[str, ...] | None, settings: tuple[str, ...] | None
) -> pa.Table:
    missing = [name for name in COLUMNS if name not in store.examples.schema.names]
    if missing:
        message = (
            f"{store.path} has no column {', '.join(missing)}: make prompts with "
            "residuum.prompts.demonstrations"
        )
        raise ArgumentError(message)
    examples = store.examples.to_table(columns=["example", *COLUMNS])
    for name, wanted in (("dataset", datasets), ("setting", settings)):
        if wanted is not None:
            known = pc.unique(examples[name]).to_pylist()
            for word in wanted:
                if word not in known:
                    message = f"{store.path} has no {name} {word!r}; it has {', '.join(known)}"
                    raise ArgumentError(message)
            wanted_words = pa.array(wanted, pa.string())
            examples = examples.filter(pc.is_in(examples[name], wanted_words))
    if not examples.num_rows:
        message = f"{store.path} has no prompts of demonstrations"
        raise ArgumentError(message)
    for row in examples.to_pylist():
        _check(row, str(store.path))
    return examples.combine_chunks()


def _check(row: dict[str, Any], path: str) -> None:
    """Refuse an example whose columns do not fit each other."""
    labels = row["labels"] or []
    wrong = [name for name in ("labels", *LISTS) if not row[name]]
    for name in ("true_label", "shown_label"):
        ids = row[name] or []
        if any(not isinstance(label, int) or not 0 <= label < len(labels) for label in ids):
            wrong.append(name)
    if row["prefix"] not in ("true", "false"):
        wrong.append("prefix")
    if wrong:
        message = (
            f"example {row['example']} of {path} has {wrong[0]} {row[wrong[0]]!r}, which does not "
            f"fit its {len(labels)} labels: make prompts with residuum.prompts.demonstrations"
        )
        raise ArgumentError(message)


def _flat(column: pa.ChunkedArray) -> Ints:
    return np.asarray(pc.list_flatten(column).to_numpy(), np.int64)


def _label_places(
    store: "Store", example: Ints, spans: dict[str, Ints]
) -> tuple[Ints, Ints, pa.Table]:
    """First and last token of each label, as rows of the tokens table, which is returned too."""
    columns = ["example", "token", "row", "token_id", "char_start", "char_end"]
    tokens = store.tokens.to_table(columns=columns).combine_chunks()
    # Special tokens stand at no character.
    placed = np.flatnonzero(pc.is_valid(tokens["char_start"]).to_numpy())
    owner = tokens["example"].to_numpy()[placed]
    start, end = (
        pc.fill_null(tokens[name], 0).to_numpy()[placed].astype(np.int64)
        for name in ("char_start", "char_end")
    )
    wide = int(max(end.max(initial=0), spans["label_end"].max(initial=0))) + 1
    first = np.searchsorted(owner * wide + end, example * wide + spans["label_start"], "right")
    last = np.searchsorted(owner * wide + start, example * wide + spans["label_end"], "left") - 1
    inside = np.minimum(first, len(placed) - 1)
    wrong = (first > last) | (owner[inside] != example) | (placed[inside] == 0)
    before = np.maximum(placed[inside] - 1, 0)
    wrong |= tokens["example"].to_numpy()[before] != example
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        message = (
            f"the label at characters {spans['label_start'][at]} to {spans['label_end'][at]} of "
            f"example {example[at]} in {store.path} has no token, or none before it: was the "
            "prompt cut off, or has it no text that a tokenizer gives offsets for?"
        )
        raise ArgumentError(message)
    return placed[first], placed[last], tokens
