"""Training over a store against torch's own optimizers and the formulas of the paper."""

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from residuum import kernels
from residuum.errors import ArgumentError, InputError, SiteError, StoreError
from residuum.lenses import Recipe, TunedLens, snapshot, train
from residuum.lenses.examples import split, steps, stored_examples
from residuum.lenses.kit import Lesson
from residuum.lenses.rust_kit import RustKit
from residuum.lenses.states import States
from residuum.lenses.torch_kit import TorchKit
from residuum.replay.readout import readout


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def head(of):
    """Rows before the final norm to logits, with torch and its gradients, in float64."""
    norm, double = of.norm, lambda x: None if x is None else torch.tensor(np.array(x)).double()
    gain, shift, w_u, b_u = map(double, (norm.weight, norm.bias, of.w_u, of.b_u))

    def logits(x):
        if norm.kind == "layer_norm":
            x = x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
        x = x * (gain + norm.offset)
        x = (x if shift is None else x + shift) @ w_u
        x = (x if b_u is None else x + b_u) * of.logit_scale
        return (
            x if of.logit_softcap is None else of.logit_softcap * torch.tanh(x / of.logit_softcap)
        )

    return logits


def losses_of(of, states, final, targets, parameters):
    """The definition, float64: `[state, row]`."""
    logits, rows = head(of), []
    for h, weight, bias in zip(states, parameters[::2], parameters[1::2], strict=True):
        log_q = logits(h + h @ weight.T + bias).log_softmax(-1)
        if final is not None:
            log_p = logits(final).log_softmax(-1)
            rows.append((log_p.exp() * (log_p - log_q)).sum(-1))
        else:
            at = torch.tensor(targets).clamp(min=0).long()
            there = torch.tensor(targets) >= 0
            rows.append(-log_q[torch.arange(len(at)), at] * there)
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["kl", "ce"])
@pytest.mark.parametrize("kit", ["rust", "torch"])
def test_kits_compute_the_definition(store, kit, kind):
    of, n_row = readout(store, analysis="test"), 150
    d = of.w_u.shape[0]
    states, final = draw(2, n_row, d), draw(n_row, d, seed=1)
    targets = np.random.default_rng(2).integers(-1, of.d_vocab, n_row).astype(np.int32)
    parameters = [0.1 * draw(*shape, seed=i) for i, shape in enumerate([(d, d), (d,)] * 2)]
    kl = kind == "kl"
    lesson = Lesson(states, final if kl else None, None if kl else targets)

    made = RustKit(of) if kit == "rust" else TorchKit(of, "cpu")
    ours = [made.array(p) for p in parameters]
    gradients = [made.zeros(p) for p in ours]
    got = made.learn(lesson, ours, gradients)

    theirs = [torch.tensor(p).double().requires_grad_() for p in parameters]
    tensors = [torch.tensor(x).double() for x in (states, final)]
    want = losses_of(of, tensors[0], tensors[1] if kl else None, targets, theirs)
    want.sum().backward()
    np.testing.assert_allclose(got, want.detach(), rtol=1e-4, atol=1e-5)
    for found, parameter in zip(gradients, theirs, strict=True):
        close = {"rtol": 1e-4, "atol": 1e-5 * float(parameter.grad.abs().max())}
        np.testing.assert_allclose(made.numpy(found), parameter.grad, **close)


def test_torch_goes_block_by_block(store, monkeypatch):
    of = readout(store, analysis="test")
    d = of.w_u.shape[0]
    lesson = Lesson(draw(2, 20, d), draw(20, d, seed=1), None)
    parameters = [torch.tensor(0.1 * draw(*shape)) for shape in [(d, d), (d,)] * 2]

    def learn():
        gradients = [torch.zeros_like(p) for p in parameters]
        return TorchKit(of, "cpu").learn(lesson, parameters, gradients), gradients

    whole, gradients = learn()
    monkeypatch.setattr("residuum.lenses.torch_kit._LOGITS", 7 * of.d_vocab)
    parts, added = learn()
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    for one, two in zip(gradients, added, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)


RECIPES = {
    "sgd": Recipe(steps=20, tokens_per_step=30, seed=3),
    "adam": Recipe("adam", steps=20, tokens_per_step=30, rate_scale=5, warm_up=4),
    "clipped": Recipe(steps=20, tokens_per_step=30, clip=0.05, momentum=0.5, weight_decay=0.1),
    "ce": Recipe(steps=20, tokens_per_step=30, loss="ce"),
    "bias_only": Recipe(steps=20, tokens_per_step=30, bias_only=True),
}


def reference(store, recipe, examples):
    """The loop of tuned-lens 0.2 in its own words, with torch's optimizers."""
    of, states = readout(store, analysis="test"), States(store, analysis="test")
    d, trained = of.w_u.shape[0], range(states.n_state - 1)
    shapes = [(d, d), (d,)] * len(trained)
    parameters = [torch.zeros(shape, dtype=torch.float64).requires_grad_() for shape in shapes]
    free = parameters[1::2] if recipe.bias_only else parameters
    more = {"lr": 1.0, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(free, momentum=recipe.momentum, nesterov=True, **more)
    else:
        betas = (recipe.momentum, 0.999)
        optimizer = torch.optim.Adam(free, betas=betas, amsgrad=True, **more)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.rate)
    order = steps(examples, recipe.tokens_per_step, recipe.seed)
    for _ in range(recipe.steps):
        rows = np.sort(examples.taken(next(order)).rows())
        h = torch.tensor(np.stack([states.read(state, rows) for state in trained])).double()
        final = torch.tensor(states.read(states.n_state - 1, rows)).double()
        targets = store.target.read(rows=rows)
        want = losses_of(of, h, final if recipe.loss == "kl" else None, targets, parameters)
        n = len(rows) if recipe.loss == "kl" else (targets >= 0).sum()
        optimizer.zero_grad()
        (want.sum() / n).backward()
        torch.nn.utils.clip_grad_norm_(free, recipe.clip)
        optimizer.step()
        schedule.step()
    return [p.detach().numpy() for p in parameters]


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
@pytest.mark.parametrize("executor", ["rust", "torch"])
@pytest.mark.parametrize("name", list(RECIPES))
def test_training_is_that_of_the_reference(store, name, executor):
    recipe = RECIPES[name]
    got = train(store, recipe, executor=executor, progress=False)
    want = reference(store, recipe, got.trained_on)
    for state, one in got.lens.translators.items():
        for ours, theirs in zip(
            (one.weight, one.bias), want[2 * state : 2 * state + 2], strict=True
        ):
            largest = np.abs(theirs).max()
            assert np.abs(ours - theirs).max() <= 1e-4 * largest
    assert np.abs(want[1]).max() > 1e-3
    assert got.losses.num_rows == recipe.steps * len(got.lens.translators)


def kl(store, lens, rows):
    """Mean KL(final || lens) by state."""
    of, states = readout(store, analysis="test"), States(store, analysis="test")
    final = of.norm.apply(states.read(states.n_state - 1, rows))
    found = [
        of.statistics(
            of.norm.apply(lens.translated(state, states.read(state, rows))),
            final,
            np.full(len(rows), -1, np.int32),
            1,
        ).kl_to_reference.mean()
        for state in range(states.n_state)
    ]
    return np.array(found)


def test_a_tuned_lens_is_closer_than_the_logit_lens(store):
    recipe = Recipe("adam", steps=150, rate_scale=5)
    trained = train(store, recipe, progress=False)
    rows = trained.trained_on.rows()
    tuned = kl(store, trained.lens, rows)
    logit = kl(store, TunedLens.untrained(trained.lens.n_state, trained.lens.d_model), rows)
    assert (tuned[:-1] < logit[:-1]).all()
    assert tuned[-1] == logit[-1] == 0
    first = trained.losses.filter(pc.field("step") == 0)["loss"].to_numpy()
    # All examples are in each step, so that the first loss is the logit lens'.
    np.testing.assert_allclose(first, logit[:-1], rtol=1e-4)


def test_least_squares_come_close_at_once(store):
    start = Recipe(start="least_squares", steps=0)
    trained = train(store, start, progress=False)
    states = States(store, analysis="test")
    rows = trained.trained_on.rows()
    final = states.read(states.n_state - 1, rows)
    for state in range(states.n_state - 1):
        h = states.read(state, rows)
        ones = np.hstack([h, np.ones((len(h), 1))])
        # Embeddings of few words span few directions; what is beyond them is rounding.
        best = ones @ np.linalg.lstsq(ones, final.astype(np.float64), rcond=1e-5)[0]
        error = np.square(trained.lens.translated(state, h) - final).sum()
        # The ridge costs a little of what the best affine map reaches.
        assert error <= 1.02 * np.square(best - final).sum() + 1e-5 * np.square(final).sum()


def test_a_fresh_lens_is_the_logit_lens(store):
    lens = train(store, Recipe(steps=0), progress=False).lens
    states = States(store, analysis="test")
    for state in range(states.n_state):
        h = states.read(state, slice(0, 20))
        np.testing.assert_array_equal(lens.translated(state, h), h)


@pytest.mark.parametrize("store", ["llama"], indirect=True)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_stopped_training_goes_on_to_the_same_end(store, tmp_path, monkeypatch, optimizer):
    recipe = Recipe(optimizer, steps=12, tokens_per_step=30)
    whole = train(store, recipe, progress=False)
    monkeypatch.setattr(snapshot, "SECONDS", -1.0)
    kept = tmp_path / "training.safetensors"
    learn, calls = RustKit.learn, []

    def stops(self, *arguments):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return learn(self, *arguments)

    monkeypatch.setattr(RustKit, "learn", stops)
    with pytest.raises(KeyboardInterrupt):
        train(store, recipe, snapshots=kept, progress=False)
    again = train(store, recipe, snapshots=kept, progress=False)
    assert len(calls) == 8 + 12 - 7
    assert again.losses.equals(whole.losses)
    for state, one in whole.lens.translators.items():
        np.testing.assert_array_equal(again.lens.translators[state].weight, one.weight)
        np.testing.assert_array_equal(again.lens.translators[state].bias, one.bias)
    assert not kept.exists()
    # Another question begins anew, and so does a damaged file.
    kept.write_bytes(b"nothing")
    other = train(store, Recipe(optimizer, steps=3), snapshots=kept, progress=False)
    assert other.losses["step"].to_pylist()[0] == 0


def test_bfloat16_comes_close(store):
    """As close as the package's own autocast: KL to 2e-3."""
    recipe = Recipe(steps=20)
    wide, narrow = (
        train(store, recipe, executor="torch", precision=precision).losses["loss"].to_numpy()
        for precision in ("float32", "bfloat16")
    )
    assert (wide != narrow).any()
    np.testing.assert_allclose(narrow, wide, rtol=2e-3, atol=2e-3)


def test_memory_changes_nothing_beyond_rounding(store):
    recipe = Recipe(steps=5)
    one, two = (train(store, recipe, memory=m, progress=False) for m in ("1GB", 60_000))
    for state in one.lens.translators:
        ours, theirs = (x.lens.translators[state].weight for x in (one, two))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_sequences_are_split_and_each_step_takes_whole_ones(store):
    examples = stored_examples(store)
    mine, theirs = split(examples, 0.25, seed=1)
    assert sorted([*mine.first, *theirs.first]) == sorted(examples.first)
    assert len(theirs) == round(0.25 * len(examples))
    assert not np.intersect1d(mine.rows(), theirs.rows()).size
    order = steps(mine, 30, seed=0)
    seen = np.concatenate([next(order) for _ in range(40)])
    n = len(mine)
    # Every example once before any comes again.
    assert all(len(set(seen[i * n : (i + 1) * n])) == n for i in range(len(seen) // n))
    assert not (seen[:n] == seen[n : 2 * n]).all()


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
def test_bad_input(store):
    for more, says in (
        ({"states": [3]}, "state 3 has no translator: they are 0 to 2"),
        ({"states": [1, 1]}, "state 1 is named twice"),
        ({"states": []}, "names no state to train"),
        ({"held_out": 1.0}, "a share, from 0 to less than 1"),
        ({"held_out": float("nan")}, "a share, from 0 to less than 1"),
        ({"held_out": 0.999}, "leaves 0 to train on"),
        ({"memory": 0}, "memory 0: it is one byte at least"),
        ({"held_out": 0.001}, "and 0 to judge by"),
        ({"executor": "jax"}, "no executor 'jax'"),
        ({"executor": "rust", "device": "cuda"}, "on the CPU, not on cuda"),
        ({"device": "nonsense"}, "torch cannot use the device 'nonsense'"),
        ({"precision": "int8"}, "precision is float32 or bfloat16, not 'int8'"),
        ({"executor": "rust", "precision": "bfloat16"}, "the Rust executor computes in float32"),
    ):
        with pytest.raises((ArgumentError, SiteError, InputError), match=says):
            train(store, Recipe(steps=1), progress=False, **more)
    for more, says in (
        ({"optimizer": "muon"}, "optimizer is sgd or adam, not 'muon'"),
        ({"loss": "mse"}, "loss is kl or ce"),
        ({"steps": -1}, "steps is at least 0"),
        ({"momentum": 1.0}, "momentum is at least 0 and below 1"),
        ({"tokens_per_step": 0}, "tokens_per_step is at least 1"),
        ({"rate_scale": float("nan")}, "rate_scale is at least 0"),
        ({"weight_decay": float("inf")}, "weight_decay is at least 0.0 and finite, not inf"),
    ):
        with pytest.raises(ArgumentError, match=says):
            Recipe(**more)


@pytest.mark.parametrize("store", ["llama"], indirect=True)
def test_a_rate_that_is_too_high_is_named(store):
    with pytest.raises(StoreError, match="give a smaller rate_scale"):
        train(store, Recipe(rate_scale=1e30, clip=1e30, steps=5), progress=False)


def test_the_door_of_the_kernel_refuses_what_does_not_fit():
    x, w_u = draw(2, 3, 5), draw(5, 7)
    for more, says in (
        ({}, "from a reference or from targets"),
        ({"reference": x[0], "targets": [1, 2, 3]}, "from a reference or from targets"),
        ({"reference": x[0, :2]}, "row"),
        ({"reference": draw(3, 4)}, "d_model"),
        ({"targets": [1, 2, 7]}, "target token 7 is not in"),
    ):
        with pytest.raises(ArgumentError, match=says):
            kernels.lens_gradients(x, w_u, **more)
    loss, gradient = kernels.lens_gradients(x[:, :0], w_u, targets=[])
    assert loss.shape == (2, 0)
    assert gradient.shape == (2, 0, 5)
