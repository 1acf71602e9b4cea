"""Activation patching of a 20-token pair: residual stream and heads, GPT-2-small and NeoX shapes.

Everyone patches the same cells of the same weights: residuum from its store, a full pass of the
model for each patch, 20 patches in one batch, TransformerLens' `get_act_patch_*`. The metric is a
logit difference at the last token. residuum sweeps every cell; the others a part, which is drawn
once, and are compared by the time of a patch. The weights are random.

    python benches/patching.py [--rounds 5] [--cells 24]
"""

import argparse
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

import residuum
from capture import make_model
from common import Case, Measured, interleaved
from findings import Goal, Report, versions
from residuum.replay import logit_diff

WORK = Path(".cache/bench/patching")
N_TOKEN, A, B = 20, 10, 20
N_WORD = 50257
Cells = list[tuple[int, int]]


def pair() -> torch.Tensor:
    """Ids of the clean and the corrupted prompt, `[2, token]`, different from token 3 on."""
    ids = torch.randint(0, 5000, (2, N_TOKEN), generator=torch.Generator().manual_seed(0))
    ids[1, :3] = ids[0, :3]
    return ids


def shapes() -> dict[str, Callable[[], Any]]:
    """Models by name."""

    def gpt2() -> Any:  # noqa: ANN401
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=N_WORD)).eval()

    def neox() -> Any:  # noqa: ANN401
        torch.manual_seed(0)
        config = GPTNeoXConfig(
            vocab_size=N_WORD,
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            intermediate_size=3072,
        )
        return GPTNeoXForCausalLM(config).eval()

    return {"GPT-2 small": gpt2, "GPT-NeoX 160m": neox}


def store_of(model: Any, name: str) -> residuum.Store:  # noqa: ANN401
    """The pair's activations."""
    folder = WORK / name.replace(" ", "_")
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder / "model")
    _, tokenizer = make_model()
    tokenizer.save_pretrained(folder / "model")
    texts = [" ".join(f"w{i}" for i in row.tolist()) for row in pair()]
    return residuum.capture(
        folder / "model",
        texts,
        folder / "run.residuum",
        sites=["resid_pre", "resid_final", "z"],
        device="cpu",
    )


class Passes:
    """Full passes of a model, patched by hooks."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        """Run the clean prompt once and keep what it did."""
        self.model = model
        gpt2 = isinstance(model, GPT2LMHeadModel)
        self.blocks = model.transformer.h if gpt2 else model.gpt_neox.layers
        self.project = "attn.c_proj" if gpt2 else "attention.dense"
        self.ids = pair()
        self.stream: list[torch.Tensor] = []
        self.z: list[torch.Tensor] = []
        handles = []
        for block in self.blocks:
            handles.append(block.register_forward_pre_hook(lambda _m, a: self.stream.append(a[0])))
            projection = block.get_submodule(self.project)
            handles.append(projection.register_forward_pre_hook(lambda _m, a: self.z.append(a[0])))
        with torch.no_grad():
            model(self.ids[:1], use_cache=False)
        for handle in handles:
            handle.remove()

    @torch.no_grad()
    def run(self, n: int, module: Any, change: Callable[[torch.Tensor], None]) -> NDArray[Any]:  # noqa: ANN401
        """The metric of `n` copies of the corrupted prompt, one module's input changed."""

        def hook(_module: object, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            x = args[0].clone()
            change(x)
            return (x, *args[1:])

        handle = module.register_forward_pre_hook(hook)
        logits = self.model(self.ids[1:].expand(n, -1), use_cache=False).logits[:, -1]
        handle.remove()
        return np.asarray(logits[:, A] - logits[:, B])

    def residual(self, cells: Cells, *, batched: bool) -> NDArray[Any]:
        """Cells of (layer, token), one by one or all tokens of a layer in one batch."""
        out = []
        for layer, token in cells:
            block, clean = self.blocks[layer], self.stream[layer]
            if not batched:

                def one(x: torch.Tensor, token: int = token, clean: Any = clean) -> None:  # noqa: ANN401
                    x[0, token] = clean[0, token]

                out.append(self.run(1, block, one))
        if batched:
            for layer in dict.fromkeys(layer for layer, _ in cells):
                clean = self.stream[layer]

                def every(x: torch.Tensor, clean: Any = clean) -> None:  # noqa: ANN401
                    place = torch.arange(N_TOKEN)
                    x[place, place] = clean[0]

                out.append(self.run(N_TOKEN, self.blocks[layer], every))
        return np.concatenate(out)

    def heads(self, cells: Cells) -> NDArray[Any]:
        """Cells of (layer, head), one by one."""
        out = []
        for layer, head in cells:
            mine = slice(64 * head, 64 * head + 64)

            def one(x: torch.Tensor, mine: slice = mine, layer: int = layer) -> None:
                x[..., mine] = self.z[layer][..., mine]

            out.append(self.run(1, self.blocks[layer].get_submodule(self.project), one))
        return np.concatenate(out)


@contextmanager
def lens_of(model: Any, tokenizer: Any) -> Iterator[Any]:  # noqa: ANN401
    """TransformerLens' bridge over a model."""
    from transformer_lens.model_bridge import TransformerBridge

    name = "gpt2" if isinstance(model, GPT2LMHeadModel) else "EleutherAI/pythia-160m"
    yield TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=tokenizer)


def transformer_lens(bridge: Any) -> dict[str, Callable[[Cells], NDArray[Any]]]:  # noqa: ANN401
    """`generic_activation_patch` over chosen cells, as `get_act_patch_*` calls it."""
    import pandas as pd  # type: ignore[import-untyped]
    from transformer_lens import patching

    ids = pair()
    with torch.no_grad():
        _, cache = bridge.run_with_cache(ids[:1])

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, A] - logits[0, -1, B]

    def over(cells: Cells, setter: Any, site: str, names: list[str]) -> NDArray[Any]:  # noqa: ANN401
        index = pd.DataFrame(cells, columns=names)
        with torch.no_grad():
            found = patching.generic_activation_patch(
                bridge, ids[1:], cache, metric, setter, site, index_df=index
            )
        return np.asarray(found)

    return {
        "residual": lambda cells: over(
            cells, patching.layer_pos_patch_setter, "resid_pre", ["layer", "pos"]
        ),
        "heads": lambda cells: over(
            cells, patching.layer_head_vector_patch_setter, "z", ["layer", "head"]
        ),
    }


def chosen(table: Any, cells: Cells, second: str) -> NDArray[Any]:  # noqa: ANN401
    """What a sweep's table says of some cells."""
    of = {
        (row["layer"], row[second]): row["logit_diff"]
        for row in table.select(["layer", second, "logit_diff"]).to_pylist()
    }
    return np.array([of[cell] for cell in cells])


def measure(report: Report, name: str, make: Callable[[], Any], n_cell: int, rounds: int) -> None:
    """All of one shape."""
    store = store_of(make(), name)
    replay = residuum.replay(store)
    metric = logit_diff(A, B)
    passes = Passes(make())
    rng = np.random.default_rng(0)
    some = {
        "token": [(int(i) // 20, int(i) % 20) for i in rng.choice(240, n_cell, replace=False)],
        "head": [(int(i) // 12, int(i) % 12) for i in rng.choice(144, n_cell, replace=False)],
    }
    rows = [(layer, token) for layer in (0, 6, 11) for token in range(N_TOKEN)]

    def residual() -> Any:  # noqa: ANN401
        return replay.sweep("resid_pre", 0, 1, ("layer", "token"), metric=metric)

    def heads() -> Any:  # noqa: ANN401
        return replay.sweep("z", 0, 1, ("layer", "head"), metric=metric)

    def agree(who: str, got: NDArray[Any], want: NDArray[Any]) -> None:
        error = np.abs(got - want).max()
        assert error <= 1e-5 * max(1.0, np.abs(want).max()), (name, who, error)

    with lens_of(make(), make_model()[1]) as bridge:
        lens = transformer_lens(bridge)
        want = passes.residual(some["token"], batched=False)
        agree("residuum", chosen(residual(), some["token"], "token"), want)
        agree("TransformerLens", lens["residual"](some["token"]), want)
        agree("batched", passes.residual(rows, batched=True), chosen(residual(), rows, "token"))
        want = passes.heads(some["head"])
        agree("residuum", chosen(heads(), some["head"], "head"), want)
        agree("TransformerLens", lens["heads"](some["head"]), want)
        table(
            report,
            f"residual stream, {name}",
            {
                "residuum": (Case(residual), 240),
                "a full pass each": (
                    Case(lambda: passes.residual(some["token"], batched=False)),
                    n_cell,
                ),
                "20 in a batch": (Case(lambda: passes.residual(rows, batched=True)), len(rows)),
                "TransformerLens": (Case(lambda: lens["residual"](some["token"])), n_cell),
            },
            [
                Goal("TransformerLens", ("TransformerLens",), 20),
                Goal("batch", ("20 in a batch",), 6),
            ],
            rounds,
        )
        table(
            report,
            f"heads, {name}",
            {
                "residuum": (Case(heads), 144),
                "a full pass each": (Case(lambda: passes.heads(some["head"])), n_cell),
                "TransformerLens": (Case(lambda: lens["heads"](some["head"])), n_cell),
            },
            [Goal("TransformerLens", ("TransformerLens",), 12)],
            rounds,
        )


def table(
    report: Report,
    title: str,
    cases: dict[str, tuple[Case, int]],
    goals: list[Goal],
    rounds: int,
) -> None:
    """Time the cases in turns; milliseconds a patch, and the goals."""
    measured: dict[str, Measured] = interleaved({k: case for k, (case, _) in cases.items()}, rounds)
    each = {name: measured[name].median / n for name, (_, n) in cases.items()}
    report.table(
        [title, "ms a patch", "times residuum's", "peak memory"],
        [
            [
                name,
                f"{1e3 * seconds:,.2f}",
                f"{seconds / each['residuum']:,.1f}",
                f"{measured[name].peak_bytes / 1e6:+,.0f} MB",
            ]
            for name, seconds in each.items()
        ],
    )
    report.judge(title, "residuum", {name: 1 / seconds for name, seconds in each.items()}, goals)


def main() -> None:
    """Check the answers, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cells", type=int, default=24)
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    report = Report("patching", "Patch replay")
    report.introduce(__doc__)
    report.say(
        f"Medians of {options.rounds}. {versions('torch', 'transformers', 'transformer-lens')}"
    )
    for name, make in shapes().items():
        measure(report, name, make, options.cells, options.rounds)
    report.keep()


if __name__ == "__main__":
    main()
