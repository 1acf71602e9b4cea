"""Train tiny CLIPs on made pictures: one of small shapes, and pairs of a fair and a biased one.

A fair model sees shapes and backgrounds that have nothing to do with each other, until it tells all
four pairs apart. The biased one goes on from there with faint shapes that nearly always stand on
their favourite background; it comes to lean on the background, while what it knows of the shape is
still there to be uncovered. Trained on the biased pictures from the start, a model never learns the
shape, and there is nothing to repair. The longer a fair model was trained, the less the biased one
forgets, however long it goes on: a fair one that needs a second block leaves little to repair, so
that one block must do, and the biased one's gate asks for a good deal of confusion.

A minute each on one core, seeded, kept under `.cache/models/` with `training.json`.

    python pipelines/train_clip_models.py [name ...]
"""

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import CLIPModel, PreTrainedTokenizerFast

import clip_towers
from clip_towers import Sizes, build, embed_pictures, embed_texts, save
from clip_zero_shot import accuracies, by_group
from residuum.prompts.scenes import REPAIR, SHAPES, Pictures, repair, shapes

CACHE = Path(".cache/models")

BETAS, WEIGHT_DECAY, CLIP_NORM = (0.9, 0.98), 0.05, 1.0
N_WARM, LAST_SHARE = 100, 0.05
MAX_SCALE = math.log(100)
# Fresh pictures for the gates and for the numbers that are reported; no training draws this seed.
N_GATE, N_REPORT, FRESH = 2000, 4000, 1_000_000
MAX_BLOCKS = 5
FAIR_LEAST, ALIGNED_LEAST, CONFLICT = 0.93, 0.98, (0.3, 0.55)

SMALL = Sizes(d_model=48, n_head=4, d_mlp=192, n_token=12)
FAINT = Sizes(d_model=64, n_head=8, d_mlp=32, n_token=10)

WORLDS = ("shapes", "fair", "biased")
Numbers = dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """One model.

    Attributes:
        world: what it sees: small shapes, or faint ones that go with no background (`fair`) or
            with one (`biased`).
        seed: of its start and its pictures; a biased model goes on from the fair one of its seed.
        n_step, peak: steps of a block, and its greatest learning rate.
        batches, batch: batches of a step, each told apart in itself, and pictures of a batch.
    """

    world: Literal["shapes", "fair", "biased"]
    seed: int
    n_step: int
    peak: float
    batches: int = 1
    batch: int = 96


SEEDS = range(6)

RECIPES = {
    "shapes": Recipe("shapes", 0, 378, 2.5e-3, batches=3, batch=48),
    **{f"repair_{seed}_fair": Recipe("fair", seed, 260, 2e-3) for seed in SEEDS},
    **{f"repair_{seed}": Recipe("biased", seed, 240, 1e-3) for seed in SEEDS},
}
"""The models, by the name that pipelines and tests call them."""


def draw(recipe: Recipe, n: int, seed: list[int], aligned: float | None = None) -> Pictures:
    """Pictures as a recipe has them, or with another share on their favourite background."""
    if recipe.world == "shapes":
        return shapes(n, seed=seed, aligned=0.925 if aligned is None else aligned)
    if recipe.world == "fair":
        return repair(n, seed=seed, aligned=0.5 if aligned is None else aligned, alpha=(0.1, 1.0))
    share = 0.98 if aligned is None else aligned
    return repair(n, seed=seed, aligned=share, alpha=(0.0, 0.6), say_background=0.5)


def loss_of(model: CLIPModel, reader: PreTrainedTokenizerFast, batch: Pictures) -> torch.Tensor:
    """Mean nats of finding a picture's caption in the batch, and a caption's picture.

    Pictures with one caption are all right for each other, and share the target.
    """
    texts, which = np.unique(np.array(batch.captions), return_inverse=True)
    caption = torch.from_numpy(which)
    pictures = embed_pictures(model, batch.pixels)
    logits = model.logit_scale.exp() * pictures @ embed_texts(model, reader, texts.tolist()).T
    logits = logits[:, caption]  # [picture, caption], one caption a picture
    same = (caption[:, None] == caption).float()
    target = same / same.sum(1, keepdim=True)
    found = torch.nn.functional.cross_entropy(logits, target)
    return (found + torch.nn.functional.cross_entropy(logits.T, target)) / 2


def rate(step: int, recipe: Recipe) -> float:
    """Learning rate: a linear start, then half a cosine down to `LAST_SHARE` of the peak."""
    if step < N_WARM:
        return recipe.peak * (step + 1) / N_WARM
    done = (step - N_WARM) / (recipe.n_step - N_WARM)
    return recipe.peak * (LAST_SHARE + (1 - LAST_SHARE) * (1 + math.cos(math.pi * done)) / 2)


def optimizer_of(model: CLIPModel) -> torch.optim.Optimizer:
    """AdamW, which pulls matrices alone towards zero."""
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    others = [weight for weight in model.parameters() if weight.dim() < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=BETAS)


def train_block(
    model: CLIPModel, reader: PreTrainedTokenizerFast, recipe: Recipe, block: int
) -> float:
    """One whole schedule with an optimizer of its own; the mean loss of its last ten steps."""
    optimizer, losses = optimizer_of(model), []
    model.train()
    for step in range(recipe.n_step):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, recipe)
        optimizer.zero_grad()
        loss = torch.zeros(())
        for part in range(recipe.batches):
            place = block * recipe.n_step * recipe.batches + step * recipe.batches + part
            batch = draw(recipe, recipe.batch, [recipe.seed, WORLDS.index(recipe.world), place])
            loss = loss + loss_of(model, reader, batch) / recipe.batches
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=MAX_SCALE)
        losses.append(float(loss.detach()))
    model.eval()
    return sum(losses[-10:]) / 10


def gate(model: CLIPModel, reader: PreTrainedTokenizerFast, recipe: Recipe) -> tuple[Numbers, bool]:
    """What decides whether a model has learnt what it is for, and whether it has.

    Measured on fresh pictures of the model's own kind, each pair of shape and background alike.
    """
    if recipe.world == "shapes":
        found = accuracies(model, reader, draw(recipe, N_GATE, [FRESH, 0], 0.25))
        return found, min(found["colour"], found["background"]) >= FAIR_LEAST
    groups = by_group(model, reader, draw(recipe, N_GATE, [FRESH, 0], 0.5))
    if recipe.world == "fair":
        return groups, groups["worst"] >= FAIR_LEAST
    low, high = CONFLICT
    return groups, groups["aligned"] >= ALIGNED_LEAST and low <= groups["conflict"] <= high


def report(model: CLIPModel, reader: PreTrainedTokenizerFast, recipe: Recipe) -> dict[str, Numbers]:
    """Accuracies on other fresh pictures, whose shapes go with no background and may be faint."""
    if recipe.world == "shapes":
        fresh = draw(recipe, N_REPORT, [FRESH, 1], 0.25)
    else:
        fresh = repair(N_REPORT, seed=[FRESH, 1], aligned=0.5, alpha=(0.0, 0.6))
    return {"groups": by_group(model, reader, fresh), "zero_shot": accuracies(model, reader, fresh)}


def train(recipe: Recipe, model: CLIPModel, reader: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Train in blocks until a fair model passes its gate, others for one block; what came of it."""
    started, blocks, passed = time.process_time(), 0, False
    losses, gates = [], []
    most = MAX_BLOCKS if recipe.world == "fair" else 1
    while blocks < most and not passed:
        losses.append(round(train_block(model, reader, recipe, blocks), 4))
        found, passed = gate(model, reader, recipe)
        gates.append(found)
        blocks += 1
    return {
        "passed": passed,
        "steps": blocks * recipe.n_step,
        "cpu_seconds": round(time.process_time() - started, 1),
        "loss": losses,
        "gate": gates,
        **report(model, reader, recipe),
    }


def clip_model(name: str, say: Callable[[str], None] = print) -> Path:
    """Folder of a model; trains it first where there is none yet. `training.json` says how it went.

    A model that did not pass its gate is kept too, and says so: that is a result.
    """
    recipe = RECIPES[name]
    folder = CACHE / f"clip-{name.replace('_', '-')}-{_key(recipe)}"
    record = folder / "training.json"
    if record.exists():
        return folder
    world, sizes = (SHAPES, SMALL) if recipe.world == "shapes" else (REPAIR, FAINT)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that sums have one order; so small a model gains little anyway
    try:
        if recipe.world == "biased":
            fair = clip_model(f"{name}_fair", say)
            model = CLIPModel.from_pretrained(fair)
        else:
            model = build(world, sizes, recipe.seed)
        result = train(recipe, model, clip_towers.tokenizer(world, sizes.n_token))
    finally:
        torch.set_num_threads(threads)
    save(model, world, sizes.n_token, folder)
    record.write_text(json.dumps({"recipe": asdict(recipe), **result}, indent=1) + "\n")
    say(f"  {name}: {json.dumps(result)}")
    return folder


def _key(recipe: Recipe) -> str:
    """Of all settings that a model comes from."""
    settings = {
        f"{module}.{key}": value
        for module, values in (("here", globals()), ("towers", vars(clip_towers)))
        for key, value in values.items()
        if key.isupper() and key not in {"CACHE", "RECIPES", "SEEDS"}
    }
    text = json.dumps([settings, asdict(recipe)], default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


if __name__ == "__main__":
    for model_name in sys.argv[1:] or RECIPES:
        print(clip_model(model_name))
