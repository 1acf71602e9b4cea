"""Train tiny models that bind entities to attributes, by an ID or directly.

A prompt lists entities and attributes and then asks: `<bos> e3 e7 <sep> a2 a9 <resp> e7` -> `a9`.
GPT-2s whose heads start out looking at equal words and at equal positions come to bind by position,
which then is the ID; GPT-NeoXs with a head that starts out looking from an attribute back to its
entity come to bind directly. Same task, same accuracy; `residuum run binding_ids` tells them apart.
Seconds to a minute each on one core, seeded, kept under `.cache/models/`.

    python pipelines/train_binding_models.py
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from binding_starts import start_by_halves, start_looking_back
from residuum.prompts.binding import vocabulary

CACHE = Path(".cache/models")

D_MODEL, D_MLP = 64, 128
ROPE_THETA = 100.0
LEARNING_RATE, BETAS, WEIGHT_DECAY = 2e-3, (0.9, 0.98), 0.01
BATCH, N_WARM, DECAY_SHARE = 32, 100, 0.15
EVERY, N_EVALUATE = 150, 256
# Two evaluations in a row above this end the training.
GOOD = 0.995

World = Literal["par", "adj", "late"]


@dataclass(frozen=True)
class Recipe:
    """One model.

    Attributes:
        start: `halves` (learned positions; binds by ID), `back` (rotary, a head that looks from an
            attribute to its entity; binds directly) or `count` (rotary, a head for each distance).
        world: how prompts are written.
        sizes: numbers of entities; each batch has one of them.
        groups: vocabularies of so many words that never meet in a prompt.
        gap: up to so many filler tokens stand behind the entities, as many in all of a batch, so
            that an attribute's entity is at no fixed distance.
        budget: steps at most.
    """

    start: Literal["halves", "back", "count"]
    world: World
    sizes: tuple[int, ...] = (4,)
    seed: int = 0
    n_layer: int = 2
    n_head: int = 2
    n_word: int = 20
    groups: int = 1
    gap: int = 0
    budget: int = 2100


RECIPES = {
    **{f"id_par_{seed}": Recipe("halves", "par", seed=seed) for seed in range(3)},
    "id_par_mixed": Recipe("halves", "par", sizes=(2, 3, 4), seed=1),
    "late_rule": Recipe("halves", "late", n_layer=3),
    "direct_adj": Recipe("back", "adj"),
    "direct_par": Recipe("back", "par"),
    "rotary_par": Recipe("count", "par", n_layer=3, n_head=4),
    "rotary_par_mixed": Recipe("count", "par", sizes=(2, 3, 4), n_layer=3, n_head=4, budget=2400),
    "id_par_8": Recipe("halves", "par", sizes=(8,), n_word=40, budget=4200),
    "id_par_groups": Recipe("halves", "par", sizes=(3,), n_word=40, groups=2),
}
"""The models, by the name that the pipeline and the tests call them."""


@dataclass(frozen=True)
class Batch:
    """Token ids `[example, token]`, and where the queries are, `[query]`."""

    ids: torch.Tensor
    queries: torch.Tensor


def draw(recipe: Recipe, n_example: int, n: int, generator: torch.Generator) -> Batch:
    """Random prompts of n entities, each with 1.5 n queries and their answers."""
    names = vocabulary(recipe.n_word)
    place = {name: i for i, name in enumerate(names)}
    group = torch.randint(recipe.groups, (n_example, 1), generator=generator)
    per = recipe.n_word // recipe.groups

    def words() -> torch.Tensor:
        order = torch.rand(n_example, per, generator=generator).argsort(1)[:, :n]
        return order + group * per

    def column(token: str) -> torch.Tensor:
        return torch.full((n_example, 1), place[token])

    entities, attributes = words(), words() + recipe.n_word
    asked = torch.randint(n, (n_example, n + n // 2), generator=generator)
    rule, answered = column("<resp>"), asked
    if recipe.world == "late":
        reverse = torch.randint(2, (n_example, 1), generator=generator).bool()
        rule = torch.where(reverse, place["<rev>"], rule)
        answered = torch.where(reverse, n - 1 - asked, asked)
    pairs = torch.stack([entities.gather(1, asked), attributes.gather(1, answered)], -1)
    if recipe.world == "adj":
        context = [torch.stack([entities, attributes], -1).flatten(1), column("<sep>")]
    else:
        filler: list[torch.Tensor] = []
        if recipe.gap:
            gap = int(torch.randint(recipe.gap + 1, (1,), generator=generator))
            filler = [column("<free0>")] * gap
        context = [entities, *filler, column("<sep>"), attributes, rule]
    head = torch.cat([column("<bos>"), *context], 1)
    queries = head.shape[1] + 2 * torch.arange(asked.shape[1])
    return Batch(torch.cat([head, pairs.flatten(1)], 1), queries)


def build(recipe: Recipe) -> PreTrainedModel:
    """The model at its start."""
    torch.manual_seed(recipe.seed)
    longest = 5 * max(recipe.sizes) + 4 + recipe.gap
    ids = {name: i for i, name in enumerate(vocabulary(recipe.n_word))}
    # A context ends its list of entities with <sep>.
    common: dict[str, Any] = {"bos_token_id": ids["<bos>"], "eos_token_id": ids["<sep>"]}
    if recipe.start == "halves":
        gpt2 = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(ids),
                n_positions=longest,
                n_embd=D_MODEL,
                n_layer=recipe.n_layer,
                n_head=recipe.n_head,
                n_inner=D_MLP,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                **common,
            )
        )
        start_by_halves(gpt2)
        return gpt2
    neox = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(ids),
            max_position_embeddings=longest,
            hidden_size=D_MODEL,
            intermediate_size=D_MLP,
            num_hidden_layers=recipe.n_layer,
            num_attention_heads=recipe.n_head,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": ROPE_THETA,
                "partial_rotary_factor": 1.0,
            },
            tie_word_embeddings=False,
            **common,
        )
    )
    if recipe.start == "count":
        start_looking_back(neox, range(1, recipe.n_head + 1))
    else:
        start_looking_back(neox, [1 if recipe.world == "adj" else recipe.sizes[0] + 1])
    return neox


def loss_of(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Mean nats of the queries' answers."""
    logits = model(input_ids=batch.ids).logits[:, batch.queries]
    answers = batch.ids[:, batch.queries + 1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten())


@torch.no_grad()
def accuracy_of(model: PreTrainedModel, recipe: Recipe, n: int, seed: int = 99) -> float:
    """Share of first queries whose answer is the most likely token of all."""
    batch = draw(recipe, N_EVALUATE, n, torch.Generator().manual_seed(seed))
    first = int(batch.queries[0])
    said = model(input_ids=batch.ids[:, : first + 1]).logits[:, -1].argmax(-1)
    return float((said == batch.ids[:, first + 1]).float().mean())


def rate(step: int, budget: int) -> float:
    """Learning rate: a linear start, and a linear end over the last part of the budget."""
    left = (budget - step) / (DECAY_SHARE * budget)
    return LEARNING_RATE * min(1.0, (step + 1) / N_WARM, left)


def train(recipe: Recipe, model: PreTrainedModel) -> dict[str, float | int | list[float]]:
    """Train until two evaluations are good, or the budget is spent; what came of it."""
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY
    )
    started, good, loss, accuracies = time.process_time(), 0, 0.0, [0.0]
    model.train()
    step = 0
    while step < recipe.budget and good < 2:
        n = recipe.sizes[int(torch.randint(len(recipe.sizes), (1,), generator=generator))]
        optimizer.param_groups[0]["lr"] = rate(step, recipe.budget)
        optimizer.zero_grad()
        found = loss_of(model, draw(recipe, BATCH, n, generator))
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % EVERY == 0:
            model.eval()
            accuracies = [accuracy_of(model, recipe, size) for size in recipe.sizes]
            model.train()
            loss = float(found.detach())
            good = good + 1 if min(accuracies) >= GOOD else 0
    model.eval()
    return {
        "steps": step,
        "cpu_seconds": round(time.process_time() - started, 1),
        "loss": round(loss, 4),
        "accuracy": [round(one, 4) for one in accuracies],
    }


def tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """One token a word."""
    ids = {name: i for i, name in enumerate(vocabulary(recipe.n_word))}
    raw = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>"
    )


def binding_model(name: str, say: Callable[[str], None] = print) -> Path:
    """Folder of a model; trains it first where there is none yet. `training.json` says how it went.

    A model that did not learn its task is kept too, with its accuracy: that is a result.
    """
    recipe = RECIPES[name]
    return kept(name, recipe, say)


def kept(name: str, recipe: Recipe, say: Callable[[str], None], *, trained: bool = True) -> Path:
    """The folder of a recipe's model, or of that model before it is trained."""
    settings = {key: value for key, value in globals().items() if key.isupper()}
    settings.pop("RECIPES"), settings.pop("CACHE")
    text = json.dumps([settings, asdict(recipe), trained], default=str, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = CACHE / f"binding-{name.replace('_', '-')}-{key}"
    record = folder / "training.json"
    if record.exists():
        return folder
    model = build(recipe)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model gains nothing from threads
    try:
        report = train(recipe, model) if trained else {"steps": 0}
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)
    tokenizer(recipe).save_pretrained(folder)
    record.write_text(json.dumps({"recipe": asdict(recipe), **report}) + "\n")
    say(f"  {name}: {json.dumps(report)}")
    return folder


if __name__ == "__main__":
    for model_name in RECIPES:
        print(binding_model(model_name))
