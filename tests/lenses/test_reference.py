"""Our lenses beside those of the package tuned-lens 0.2.

Skipped where the package is not installed: it is a peer, not a dependency. To run it:

    uv sync --all-extras --locked --group peers
    uv run --no-sync pytest tests/lenses/test_reference.py

That both train alike is asserted by `benches/lenses.py`, which runs the package's own loop.
"""

import json

import numpy as np
import pytest
import tiny_models
import torch
from lenses.conftest import SITES, texts

import residuum
from residuum.lenses import TunedLens, publish, published
from residuum.lenses.published import unembed_hash
from residuum.lenses.states import States
from residuum.lenses.tuned import Translator
from residuum.replay.readout import readout

package = pytest.importorskip("tuned_lens.nn", reason="tuned-lens is installed with the peers")
# It would ask TransformerLens, another peer, for a class that version 4 no longer has.
pytest.importorskip("tuned_lens.model_surgery")._transformer_lens_available = False

NAMES = ["gpt2", "gpt_neox", "llama"]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


class Both:
    """A model, and what a store holds of it."""

    def __init__(self, name, folder):
        self.model = tiny_models.save(name, folder / "model", torch.float32)
        self.model.requires_grad_(requires_grad=False)
        self.store = residuum.capture(
            folder / "model", texts(20), folder / "run", sites=SITES, dtype="float32", device="cpu"
        )
        self.unembed = package.Unembed(self.model)
        self.readout = readout(self.store, analysis="test")
        self.states = States(self.store, analysis="test")
        self.last = self.states.n_state - 1
        self.d_model = self.readout.w_u.shape[0]

    def read(self, state):
        return self.states.read(state, slice(None))

    def logits(self, lens, state):
        """Of our lens."""
        return self.readout.logits(lens.translated(state, self.read(state)))

    @torch.no_grad()
    def theirs(self, lens, state):
        """Of a lens of the package; the last state goes past it."""
        h = torch.tensor(self.read(state))
        return self.unembed(h) if state == self.last else lens(h, state)


@pytest.fixture(scope="module", params=NAMES)
def both(request, tmp_path_factory):
    return Both(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def lens(both):
    """Of random translators."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return (0.2 * rng.standard_normal(shape)).astype(np.float32)

    d = both.d_model
    each = {s: Translator(normal(d, d), normal(d)) for s in range(both.last)}
    return TunedLens(each, both.last + 1, {"model": "m"})


def loaded(both, lens, folder):
    """Our lens, published and read by the package."""
    publish(lens, folder, both.readout.w_u)
    return package.TunedLens.from_unembed_and_pretrained(both.unembed, str(folder))


def test_states_are_numbered_as_there(both):
    """Its translator s is for `hidden_states[s]`; the last of these is not always a state."""
    ids = torch.tensor([[3, 4, 5, 6]])
    hidden = both.model(ids, output_hidden_states=True).hidden_states[:-1]
    run = both.store.path.parent / "four"
    tokenizer = tiny_models.tokenizer()
    store = residuum.capture(
        (both.model, tokenizer), ["w3 w4 w5 w6"], run, sites=SITES, dtype="float32"
    )
    states = States(store, analysis="test")
    assert len(hidden) == states.n_state - 1
    for state, want in enumerate(hidden):
        np.testing.assert_allclose(states.read(state, slice(0, 4)), want[0], **CLOSE)


def test_a_fresh_lens_is_the_logit_lens_on_both_sides(both):
    ours = TunedLens.untrained(both.last + 1, both.d_model)
    theirs = package.TunedLens.from_model(both.model)
    plain = package.LogitLens.from_model(both.model)
    for state in range(both.last):
        direct = both.readout.logits(both.read(state))
        assert np.abs(both.logits(ours, state) - direct).max() == 0
        assert (both.theirs(theirs, state) - both.theirs(plain, state)).abs().max() == 0
        np.testing.assert_allclose(direct, both.theirs(plain, state), **CLOSE)


def test_ours_is_read_by_the_package(both, lens, tmp_path):
    theirs = loaded(both, lens, tmp_path)
    assert (
        theirs.config.unembed_hash
        == json.loads((tmp_path / "config.json").read_text())["unembed_hash"]
    )
    for state in range(both.last + 1):
        np.testing.assert_allclose(both.logits(lens, state), both.theirs(theirs, state), **CLOSE)


def test_theirs_is_read_by_us(both, tmp_path):
    theirs = package.TunedLens.from_model(both.model)
    with torch.no_grad():
        for parameter in theirs.layer_translators.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape))
    theirs.save(tmp_path)
    ours = published(tmp_path)
    assert ours.n_state == both.last + 1
    assert ours.about["unembed_hash"] == theirs.config.unembed_hash
    for state in range(both.last + 1):
        np.testing.assert_allclose(both.logits(ours, state), both.theirs(theirs, state), **CLOSE)


def test_statistics_of_every_token_are_the_same(both, lens, tmp_path):
    theirs = loaded(both, lens, tmp_path)
    of, targets = both.readout, both.store.target.read()
    there = targets >= 0
    final = of.norm.apply(both.read(both.last))
    log_p = both.theirs(theirs, both.last).log_softmax(-1)
    for state in range(both.last + 1):
        normed = of.norm.apply(lens.translated(state, both.read(state)))
        ours = of.statistics(normed, final, targets, 1)
        log_q = both.theirs(theirs, state).log_softmax(-1)
        want = {
            "kl_to_reference": (log_p.exp() * (log_p - log_q)).sum(-1),
            "entropy": -(log_q.exp() * log_q).sum(-1),
        }
        for name, values in want.items():
            np.testing.assert_allclose(getattr(ours, name), values, err_msg=name, **CLOSE)
        own = log_q[np.flatnonzero(there), targets[there]]
        np.testing.assert_allclose(ours.target_logprob[there], own, **CLOSE)
        np.testing.assert_array_equal(ours.top_ids[:, 0], log_q.argmax(-1))


def test_a_checkpoint_has_its_keys_and_shapes(both, lens, tmp_path):
    publish(lens, tmp_path / "ours", both.readout.w_u)
    package.TunedLens.from_model(both.model).save(tmp_path / "theirs")
    ours, theirs = (
        {name: (x.dtype, tuple(x.shape)) for name, x in torch.load(folder / "params.pt").items()}
        for folder in (tmp_path / "ours", tmp_path / "theirs")
    )
    assert ours == theirs
    ours, theirs = (
        json.loads((tmp_path / side / "config.json").read_text()) for side in ("ours", "theirs")
    )
    name = "base_model_name_or_path"
    assert ours == {**theirs, name: ours[name]}


def test_an_unembedding_has_the_hash_of_the_package(both):
    assert unembed_hash(both.readout.w_u) == both.unembed.unembedding_hash()
