"""Train a small causal language model on the docstrings of the Python standard library.

A GPT-NeoX of about a million weights, two minutes on two CPU cores, seeded; trained once for these
settings and this text, then kept under `.cache/models/`. It ends by comparing its held-out loss
with that of a unigram model of the same tokens and fails when it is not far below: what follows
asks the model what it has learnt.

    python pipelines/train_causal_model.py
"""

import hashlib
import json
import math
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from docstring_corpus import Sentence, build_corpus

CACHE = Path(".cache/models")

SEED = 0
D_VOCAB, N_TOKEN = 1024, 64
N_LAYER, N_HEAD, D_MODEL = 4, 4, 128
N_STEP, N_WARM, BATCH, LEARNING_RATE = 1000, 100, 16, 4e-3
# Rotary positions, on all of a head and with short waves: in so few steps heads learn to look a
# fixed distance back, which they hardly do with learned positions.
ROTARY = {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 1.0}
# The usual 0.02 suits wider models; here it starts the attention off too flat to move.
INITIALIZER_RANGE = 0.05
# One object in so many is held out, with all its sentences, so that none is half known.
HELD_OUT_EVERY = 20
# Nats per token that the model has to gain over the unigram baseline.
MIN_GAIN = 1.5
# The tokenizer's trainer numbers special tokens first.
END, END_ID = "<|end|>", 0


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE of `D_VOCAB` tokens; `END` opens every prompt."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=D_VOCAB,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    raw.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, END_ID)]
    )
    return raw


def encode(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids of all texts, one after another. [token]."""
    return torch.tensor([token for line in tokenizer.encode_batch(texts) for token in line.ids])


def save(model: GPTNeoXForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Keep model and tokenizer as `AutoModelForCausalLM` and `AutoTokenizer` load them."""
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=N_TOKEN,
    ).save_pretrained(folder)


def split(corpus: list[Sentence]) -> tuple[list[str], list[str]]:
    """(training, held-out) texts, by a hash of the object that they document."""
    training: list[str] = []
    held_out: list[str] = []
    for row in corpus:
        digest = hashlib.sha256(f"{row['module']}:{row['object']}".encode()).digest()
        (training if digest[0] % HELD_OUT_EVERY else held_out).append(row["text"])
    return training, held_out


def draw_batch(ids: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """`BATCH` windows from random places of the text [token]: [example, token]."""
    start = torch.randint(len(ids) - N_TOKEN, (BATCH,), generator=generator)
    return ids[start[:, None] + torch.arange(N_TOKEN)]


def unigram_loss(training: torch.Tensor, held_out: torch.Tensor) -> float:
    """Nats per held-out token [token] under the training text's token counts, plus one each."""
    counts = torch.bincount(training, minlength=D_VOCAB).double() + 1
    return float(-(counts / counts.sum()).log()[held_out].mean())


def next_token_loss(model: GPTNeoXForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    """Mean nats per token of `batch` [example, token]; the first token of each example is given."""
    logits = model(input_ids=batch).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def model_loss(model: GPTNeoXForCausalLM, ids: torch.Tensor) -> float:
    """Mean nats per token of `ids` [token], cut into consecutive windows."""
    windows = ids[: len(ids) // N_TOKEN * N_TOKEN].view(-1, N_TOKEN)
    model.eval()
    total = 0.0
    for first in range(0, len(windows), 32):
        part = windows[first : first + 32]
        total += float(next_token_loss(model, part)) * len(part)
    return total / len(windows)


def learning_rate(step: int) -> float:
    """Linear warm-up, then half a cosine down to a tenth."""
    warm = min(1.0, (step + 1) / N_WARM)
    return LEARNING_RATE * warm * (0.55 + 0.45 * math.cos(math.pi * step / N_STEP))


def train(training: torch.Tensor, held_out: torch.Tensor) -> GPTNeoXForCausalLM:
    """Fit the model to the training text [token]; the held-out text [token] is only reported."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    config = GPTNeoXConfig(
        vocab_size=D_VOCAB,
        max_position_embeddings=N_TOKEN,
        hidden_size=D_MODEL,
        intermediate_size=4 * D_MODEL,
        num_hidden_layers=N_LAYER,
        num_attention_heads=N_HEAD,
        rope_parameters=ROTARY,
        use_parallel_residual=False,
        tie_word_embeddings=True,
        initializer_range=INITIALIZER_RANGE,
        bos_token_id=END_ID,
        eos_token_id=END_ID,
    )
    model = GPTNeoXForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1, betas=(0.9, 0.95))
    print(f"  {model.num_parameters():,} weights, {len(training):,} training tokens", flush=True)
    started = time.perf_counter()
    for step in range(N_STEP):
        optimizer.param_groups[0]["lr"] = learning_rate(step)
        model.train()
        batch = draw_batch(training, generator)
        optimizer.zero_grad()
        next_token_loss(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 200 == 0:
            loss, seconds = model_loss(model, held_out), time.perf_counter() - started
            print(f"  step {step + 1}: held-out {loss:.2f} nats/token, {seconds:.0f} s", flush=True)
    return model


def trained_model(corpus: list[Sentence]) -> Path:
    """Folder of the model trained on this text; trains it first where there is none yet."""
    settings = {name: value for name, value in globals().items() if name.isupper()}
    key = hashlib.sha256(json.dumps([settings, corpus], default=str).encode()).hexdigest()[:12]
    folder = CACHE / f"docstring-neox-{key}"
    record = folder / "training.json"
    if record.exists():
        return folder
    training_texts, held_out_texts = split(corpus)
    tokenizer = train_tokenizer(training_texts)
    training, held_out = encode(tokenizer, training_texts), encode(tokenizer, held_out_texts)
    model = train(training, held_out)
    reached, baseline = model_loss(model, held_out), unigram_loss(training, held_out)
    print(f"  held-out loss {reached:.2f} nats/token; unigram baseline {baseline:.2f}")
    if reached > baseline - MIN_GAIN:
        message = f"the model gains less than {MIN_GAIN} nats/token over a unigram model: not kept"
        raise SystemExit(message)
    save(model, tokenizer, folder)
    record.write_text(json.dumps({"held_out_loss": reached, "unigram_loss": baseline}) + "\n")
    return folder


if __name__ == "__main__":
    print(trained_model(build_corpus()))
