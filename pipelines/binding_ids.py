"""How does a model know which attribute belongs to which entity? Prompts, capture, study, report.

    python pipelines/binding_ids.py                       tiny models that are trained here
    python pipelines/binding_ids.py --model FOLDER        the seven tasks in English, for any model

Without --model, models of the same task and accuracy are trained, some to bind by ID and some to
bind directly (train_binding_models.py); the table at the end shows that the study tells them apart.
Everything is kept under demo/binding_ids/ and is asked again, not computed again.
"""

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

import binding_fixture
import residuum
from residuum.analyses import run as ask
from residuum.analyses.result import Result
from residuum.prompts.binding import TASKS, Tokenise, fitted, option_rows, rows, world
from residuum.prompts.binding.worlds import World
from residuum.report import StoreCard, build
from residuum.store import Store
from train_binding_models import RECIPES, binding_model

OUT = Path("demo/binding_ids")
SITES = ["resid_pre", "resid_final"]
N_TRAIN, N_TEST = 500, 100
WORLDS: dict[str, tuple[World, ...]] = {
    "par": ("par",),
    "adj": ("adj",),
    "late": ("late_resp", "late_rev"),
}
# The map of IDs takes 120,000 replays: of one model it is enough.
MAPPED = "id_par_groups"


def tokeniser(folder: str | Path) -> Tokenise:
    """The model's tokenizer as the prompts want it: ids with their characters."""
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def tokenise(text: str) -> list[tuple[int, int, int]]:
        made = tokenizer(text, return_offsets_mapping=True)
        pairs = zip(made["input_ids"], made["offset_mapping"], strict=True)
        return [(token, start, end) for token, (start, end) in pairs]

    return tokenise


def written(prompts: Iterable[dict[str, Any]], path: Path) -> Path:
    """The prompts as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in prompts), encoding="utf-8")
    return path


def world_prompts(
    name: str, tokenise: Tokenise, *, n_train: int = N_TRAIN, n_test: int = N_TEST
) -> Iterable[dict[str, Any]]:
    """The prompts that a trained model is asked, in its own world."""
    recipe = RECIPES[name]
    per = recipe.n_word // recipe.groups
    for n in recipe.sizes:
        for kind in WORLDS[recipe.world]:
            for group in range(recipe.groups):
                task = world(
                    kind,
                    recipe.n_word,
                    name=kind if recipe.groups == 1 else f"{kind}_{group}",
                    words=range(group * per, (group + 1) * per),
                )
                yield from rows(task, tokenise, n_entities=n, n_train=n_train, n_test=n_test)


def text_prompts(
    tasks: Sequence[str],
    sizes: Sequence[int],
    tokenise: Tokenise,
    *,
    n_train: int = N_TRAIN,
    n_test: int = N_TEST,
) -> Iterable[dict[str, Any]]:
    """The tasks in English, of words that are single tokens for the model."""
    for name in tasks:
        if name == "MCQ":
            yield from option_rows(tokenise, n=n_test, seed=0)
            continue
        task = fitted(TASKS[name], tokenise)
        print(f"  {name}: {len(task.entities)} entities, {len(task.attributes)} attributes")
        for n in sizes:
            yield from rows(task, tokenise, n_entities=n, n_train=n_train, n_test=n_test)


def studied(
    name: str, folder: str | Path, prompts: Iterable[dict[str, Any]], **params: object
) -> tuple[Store, Result]:
    """Capture the prompts and run the study; what is there already is not done again."""
    path = OUT / f"{name}.residuum"
    inputs = written(prompts, OUT / f"{name}.jsonl")
    store = residuum.capture(folder, inputs, path, sites=SITES, dtype="float32", resume=True)
    started = time.perf_counter()
    found = ask("binding_ids", store, **params)
    print(f"  {name}: {store.n_example:,} prompts, {time.perf_counter() - started:.1f} s")
    report = OUT / f"{name}.html"
    report.write_text(build(StoreCard.of(store.info()), [found]), encoding="utf-8")
    return store, found


SUMMARY = """
WITH s AS (
    SELECT task, n_entities,
           avg(accuracy) FILTER (NOT swap_entity AND NOT swap_attr) AS plain,
           avg(accuracy) FILTER (NOT swap_entity AND swap_attr) AS attr,
           avg(accuracy) FILTER (swap_entity AND NOT swap_attr AND NOT removed) AS entity,
           avg(accuracy) FILTER (swap_entity AND NOT swap_attr AND removed) AS removed
    FROM binding_ids_swaps WHERE slot = side GROUP BY ALL
), m AS (
    SELECT task, n_entities, query,
           max(accuracy) FILTER (NOT swap_entity AND NOT swap_attr) AS m_none,
           max(accuracy) FILTER (NOT swap_entity AND swap_attr) AS m_attr,
           max(accuracy) FILTER (swap_entity AND NOT swap_attr) AS m_entity,
           max(accuracy) FILTER (swap_entity AND swap_attr) AS m_both
    FROM binding_ids_mean_intervention WHERE delta = 'mean' AND query < 2 GROUP BY ALL
)
SELECT s.*, round(avg(m_none), 2) || ' ' || round(avg(m_attr), 2) || ' '
            || round(avg(m_entity), 2) || ' ' || round(avg(m_both), 2) AS mean
FROM s JOIN m USING (task, n_entities) GROUP BY ALL ORDER BY n_entities, task
"""


def show(stores: dict[str, Store]) -> None:
    """What tells the mechanisms apart, model by model."""
    head = ("model", "task", "n", "plain", "attribute", "entity", "removed", "mean differences")
    line = "{:18} {:10} {:>2}  {:>6} {:>9} {:>7} {:>8}   {}"
    print("\nSwaps of one slot: accuracy of what IDs predict; entity swapped, but the removed one")
    print("asked about; and mean differences added in none, attributes, entities, both:\n")
    print(line.format(*head))
    for name, store in stores.items():
        for task, n, *shares, mean in store.sql(SUMMARY).fetchall():
            print(line.format(name, task, n, *(f"{x:.2f}" for x in shares), mean))
    print("\n  binds by ID: 1 1 1, removed about 1/n, mean 1 0 0 1")
    print("  binds directly: 1, then about 1/n and 1/n, removed 1, mean 1 1 1 1")


def tiny_models(names: Sequence[str]) -> None:
    """Train, ask and compare."""
    print("Readers made by hand, whose mechanism is known:\n")
    binding_fixture.main()
    print("\nTrained models:\n")
    stores = {}
    every = ("factorizability", "position", "mean_intervention", "column_scan")
    for name in names:
        folder = binding_model(name)
        asked = every + (("cyclic", "transfer") if max(RECIPES[name].sizes) > 2 else ())
        params: dict[str, object] = {} if name == MAPPED else {"experiments": asked}
        prompts = world_prompts(name, tokeniser(folder))
        stores[name], _ = studied(name, folder, prompts, **params)
    show(stores)


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", help="folder or hub name; without it, tiny models")
    parser.add_argument("--task", nargs="+", default=[*TASKS, "MCQ"], choices=[*TASKS, "MCQ"])
    parser.add_argument("--entities", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--experiments", default="", help="as residuum run binding_ids has them")
    parser.add_argument("--recipe", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.model is None:
        tiny_models(given.recipe)
        return
    tokenise = tokeniser(given.model)
    prompts = text_prompts(given.task, given.entities, tokenise)
    name = Path(given.model).name
    store, _ = studied(name, given.model, prompts, experiments=given.experiments)
    show({name: store})


if __name__ == "__main__":
    main()
