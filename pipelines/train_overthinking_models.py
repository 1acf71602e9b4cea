"""Train small models that overthink: they learn true labels first, then that labels may lie.

Worlds of `residuum.prompts.demonstrations`, seeded, about a minute each on one CPU core;
trained once for these settings, then kept under `.cache/models/`:

    curve           labels of a sequence are true, or all shifted: the overthinking curve
    curve_truthful  the same model before it saw a lie: its control
    model_a         each class may lie by itself: false induction heads
    model_a_shared  the same, with the same label words in all data sets
    model_b         as model_a, with a class that takes one block more to tell

    python pipelines/train_overthinking_models.py [NAME [SEED]]
"""

import hashlib
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from residuum.prompts import demonstrations
from residuum.prompts.demonstrations import World
from residuum.prompts.demonstrations.worlds import BOS, Phase

CACHE = Path(".cache/models")
N_LAYER, N_HEAD = 4, 4
LEARNING_RATE, N_WARM, FLOOR = 3e-3, 50, 0.05
# A model that is to be stopped early is looked at so often, on so many sequences.
CHECK_EVERY, N_CHECK = 50, 256


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        world: function of `residuum.prompts.demonstrations` that makes its world.
        n_true, n_lying: steps on the truthful corpus, then at most on the lying one.
        n_schedule: steps that the learning rate's cosine is made for.
        stop: the share of permuted labels that the model has to predict for training to end.
        init: standard deviation of the first weights.
    """

    world: str
    d_model: int
    d_mlp: int
    batch: int
    n_true: int
    n_lying: int
    n_schedule: int
    stop: float | None = None
    init: float = 0.069


CURVE = Recipe("curve_world", 48, 144, 24, 150, 500, 650)
MODEL_A = Recipe("model_a_world", 64, 192, 64, 150, 1650, 3150, stop=0.95)
RECIPES = {
    "curve": CURVE,
    # Its learning rate is that of the curve's model, so that it is that model half-way.
    "curve_truthful": replace(CURVE, n_lying=0),
    "model_a": MODEL_A,
    "model_a_shared": replace(MODEL_A, world="model_a_shared_world"),
    "model_b": Recipe("model_b_world", 64, 192, 64, 400, 2000, 3400, stop=0.95),
}


def world_of(name: str) -> World:
    """The world that a recipe's model lives in."""
    world: World = getattr(demonstrations, RECIPES[name].world)()
    return world


def new_model(recipe: Recipe, world: World) -> LlamaForCausalLM:
    """A Llama of 4 layers and 4 heads, untied, as torch's seed makes it."""
    n_token = 1 + world.n_demo * (world.items.shape[3] + 2 + (world.end is not None))
    config = LlamaConfig(
        vocab_size=len(world.words),
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_mlp,
        num_hidden_layers=N_LAYER,
        num_attention_heads=N_HEAD,
        max_position_embeddings=n_token,
        tie_word_embeddings=False,
        initializer_range=recipe.init,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config)


def tokenizer_of(world: World) -> PreTrainedTokenizerFast:
    """One token a word, `<bos>` first."""
    vocabulary = {word: number for number, word in enumerate(world.words)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token=BOS))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=BOS, pad_token=BOS)


def label_loss(model: LlamaForCausalLM, ids: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Mean nats per label of `ids` [sequence, token]; labels stand at the positions `at` [demo]."""
    stream = model.model(input_ids=ids).last_hidden_state[:, at - 1]
    logits = model.lm_head(stream)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, at].flatten())


@torch.no_grad()
def follows_lies(model: LlamaForCausalLM, world: World, seed: int) -> float:
    """The share of last labels that the model predicts where all classes are shifted alike."""
    rng = np.random.default_rng([seed, 1])
    shift = rng.integers(1, world.n_class, size=(N_CHECK, 1))
    lying = replace(world, relabel=lambda _, true: (true + shift) % world.n_class)
    ids, at = lying.corpus(rng, N_CHECK, "lying")
    last = int(at[-1])
    logits = model(input_ids=torch.from_numpy(ids[:, :last])).logits[:, -1]
    return float((logits.argmax(-1).numpy() == ids[:, last]).mean())


def learning_rate(step: int, n_step: int) -> float:
    """Linear warm-up, then half a cosine down to a twentieth."""
    warm = min(1.0, (step + 1) / N_WARM)
    cosine = (1 + math.cos(math.pi * min(1.0, step / n_step))) / 2
    return LEARNING_RATE * warm * (FLOOR + (1 - FLOOR) * cosine)


def train(recipe: Recipe, world: World, seed: int) -> tuple[LlamaForCausalLM, dict[str, float]]:
    """Fit a model: all labels true at first, then the lying corpus.

    Returns:
        the model, and how far it came: steps, last loss, share of lies that it follows, seconds.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = new_model(recipe, world)
    print(f"  {model.num_parameters():,} weights, seed {seed}", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, betas=(0.9, 0.98))
    started = time.process_time()
    loss, followed, step = math.nan, math.nan, 0
    for step in range(1, recipe.n_true + recipe.n_lying + 1):
        phase: Phase = "true" if step <= recipe.n_true else "lying"
        ids, at = world.corpus(rng, recipe.batch, phase)
        optimizer.param_groups[0]["lr"] = learning_rate(step - 1, recipe.n_schedule)
        optimizer.zero_grad()
        found = label_loss(model, torch.from_numpy(ids), torch.from_numpy(at))
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % CHECK_EVERY == 0:
            loss, followed = found.item(), follows_lies(model, world, seed)
            seconds = time.process_time() - started
            print(
                f"  step {step}: {loss:.3f} nats/label, follows {followed:.3f} of the lies, "
                f"{seconds:.0f} CPU-seconds",
                flush=True,
            )
            if recipe.stop is not None and phase == "lying" and followed > recipe.stop:
                break
    seconds = time.process_time() - started
    return model, {"steps": step, "loss": loss, "follows_lies": followed, "seconds": seconds}


def trained_model(name: str, seed: int = 0) -> Path:
    """Folder of a recipe's model for a seed; trains it first where there is none yet."""
    recipe = RECIPES[name]
    settings = {key: value for key, value in globals().items() if key.isupper()}
    settings = {
        key: value for key, value in settings.items() if key not in ("RECIPES", "CURVE", "MODEL_A")
    }
    world = world_of(name)
    # One example of the corpus stands for the code that makes it.
    example = world.corpus(np.random.default_rng(0), 4, "lying")[0].tolist()
    text = json.dumps([settings, asdict(recipe), world.words, example, seed], default=str)
    folder = CACHE / f"overthinking-{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    record = folder / "training.json"
    if record.exists():
        return folder
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model gains nothing from threads
    try:
        model, reached = train(recipe, world, seed)
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)
    tokenizer_of(world).save_pretrained(folder)
    record.write_text(json.dumps({"recipe": asdict(recipe), "seed": seed, **reached}) + "\n")
    return folder


if __name__ == "__main__":
    chosen = sys.argv[1:2] or list(RECIPES)
    for one in chosen:
        print(one)
        print(trained_model(one, int(sys.argv[2]) if len(sys.argv) > 2 else 0))
