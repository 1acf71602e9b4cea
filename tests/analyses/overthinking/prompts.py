"""Stores of demonstrations, of the tiny models with random weights."""

from pathlib import Path

import pyarrow as pa
import tiny_models
import torch

import residuum
from residuum.prompts.demonstrations import Dataset, Item, Template, build
from residuum.store import Store

SEP = 4
LABELS = (1, 3, 5)
N_DEMO, N_PAIR = 5, 10
SITES = ("embed", "resid_post", "attn_out", "mlp_out", "z", "pattern")


def words(name: str, first: int, labels: tuple[int, ...] = LABELS) -> Dataset:
    """Items `w<i> w4`, 15 tokens for 5 demonstrations; class by number."""
    template = Template(
        "words", f"{{text}} w{SEP} ", tuple(f"w{i}" for i in labels), end="", separator=" "
    )
    items = tuple(Item({"text": f"w{first + i}"}, i % len(labels)) for i in range(12))
    return Dataset(name, items, (template,))


# The tokenizer's special words w0 and w2 are cut out of longer ones, such as w20.
DATASETS = (words("one", 7), words("two", 8, LABELS[:2]))


def prompts(settings=("permuted", "random"), n_pair=N_PAIR) -> list[dict]:
    """Rows of two data sets, of 3 and 2 classes."""
    return [
        row
        for dataset in DATASETS
        for row in build(dataset, n_prompt=n_pair, n_demo=N_DEMO, settings=settings, seed=1)
    ]


def captured(name: str, folder: Path, sites=SITES, **more) -> Store:
    """A store of a tiny model in float32, with its folder beside it."""
    tiny_models.save(name, folder / "model", torch.float32)
    rows = pa.Table.from_pylist(prompts())
    return residuum.capture(
        folder / "model", rows, folder / "run", sites=sites, device="cpu", **more
    )


def ids(row: dict) -> list[int]:
    """A prompt's token ids, as the tiny tokenizer gives them."""
    return [int(word[1:]) for word in row["text"].split()]
