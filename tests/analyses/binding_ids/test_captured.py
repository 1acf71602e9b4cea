"""Frozen-context replay against full passes of the unmodified model, family by family."""

import numpy as np
import pytest
import torch
from analyses.binding_ids.tiny_prompts import capture, everything, prompt_rows
from replay.oracle import Captured as Oracle
from transformers import AutoModelForCausalLM

from residuum.analyses.binding_ids.captured import Captured
from residuum.analyses.binding_ids.lookup import prompts_of
from residuum.analyses.binding_ids.params import Params
from residuum.analyses.binding_ids.subject import Exchange, Put, Shift, Turn
from residuum.errors import SiteError
from residuum.replay.edit import Edit
from residuum.sites import Site

CLOSE = {"rtol": 2e-5, "atol": 2e-5}
FAMILIES = ["gpt_neox", "llama", "gpt2", "gptj"]
ROTARY = ["gpt_neox", "llama", "gptj"]  # gptj pairs neighbours, the others halves


@pytest.fixture(scope="module", params=FAMILIES)
def opened(request, tmp_path_factory):
    """Family, its subject, the test prompts with all their contexts, and the oracle."""
    folder = tmp_path_factory.mktemp(request.param)
    store, ids = capture(request.param, folder, prompt_rows())
    (prompts,) = prompts_of(store, Params())
    return request.param, Captured(store, None), prompts, Oracle(request.param, torch.float32, ids)


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def asked(prompts):
    return prompts.of("test", "default")


def plain(oracle, prompts):
    """Log-probs of the candidates in full passes without a change, `[prompt, candidate]`."""
    return full(oracle, prompts, [[] for _ in prompts.example])


def full(oracle, prompts, edits):
    """Log-probs of the candidates in full passes with hooks that make edits."""
    out = []
    for number, mine, answers in zip(prompts.example, edits, prompts.answers, strict=True):
        found = oracle.with_edits(int(number), mine, [(Site.LOGITS, None)])
        out.append(log_softmax(found[Site.LOGITS, None][-1])[answers])
    return np.array(out)


def frozen(oracle, prompts, change):
    """Edits that write the whole context anew at every layer, as the digest's slow form does."""
    made = []
    for row, number in enumerate(prompts.example):
        end = int(prompts.ctx_end[row])
        edits = []
        for layer in range(oracle.of.n_layer):
            held = oracle.at(Site.RESID_PRE, layer, int(number))[:end].copy()
            change(row, layer, held)
            edits.append(Edit(Site.RESID_PRE, layer, np.arange(end), shift=held))
        made.append(edits)
    return made


def test_positions_are_those_of_the_words(opened):
    _, _, prompts, oracle = opened
    one = asked(prompts)
    for row, number in enumerate(one.example):
        ids = oracle.examples[int(number)]
        assert [ids[at] for at in one.attribute[row]] == one.answers[row, : one.n].tolist()
        assert all(3 <= ids[at] < 11 for at in one.entity[row])
        assert ids[one.ctx_end[row]] == 19
        assert one.n_token[row] == len(ids)


def test_identity(opened):
    _, subject, prompts, oracle = opened
    one = asked(prompts)
    own = Put(everything(one), one.example, everything(one))
    scores = subject.scores(one, one.answers, [(), (own,), (Shift(everything(one), np.zeros(1)),)])
    # A row's last bits depend on its place in a product, on some machines.
    np.testing.assert_allclose(scores.logprob[1], scores.logprob[2], rtol=1e-5)
    for found in scores.logprob:
        np.testing.assert_allclose(found, plain(oracle, one), **CLOSE)


def test_a_changed_token_is_seen_by_the_question_alone(opened):
    family, subject, prompts, oracle = opened
    one, other = asked(prompts), prompts.of("test", "disjoint")
    donor = one.partners(other)
    rng = np.random.default_rng(0)
    by = rng.standard_normal((1, oracle.of.n_layer, oracle.of.d_model)).astype(np.float32)
    entity, attribute = one.tokens("entity", 0), one.tokens("attribute", 1)
    put = Put(entity, other.example[donor], other.tokens("entity", 0)[donor])
    shift = Shift(attribute, by)
    cases = [(put,), (put, shift)]

    def change(row, layer, held, *, both):
        there = oracle.at(Site.RESID_PRE, layer, int(other.example[donor[row]]))
        held[entity[row, 0]] = there[other.entity[donor[row], 0]]
        if both:
            held[attribute[row, 0]] += by[0, layer]

    scores = subject.scores(one, one.answers, cases)
    for both in (False, True):
        edits = frozen(
            oracle, one, lambda row, layer, held, both=both: change(row, layer, held, both=both)
        )
        np.testing.assert_allclose(scores.logprob[int(both)], full(oracle, one, edits), **CLOSE)
    # And it matters: the frozen pass is not the free one.
    free = [[edit for edit in edits if edit.layer == 0] for edits in edits]
    assert np.abs(full(oracle, one, free) - scores.logprob[1]).max() > 1e-3, family


def test_keys_moved(opened):
    family, subject, prompts, oracle = opened
    one = asked(prompts)
    tokens = np.concatenate([one.tokens("attribute", slot) for slot in (0, 1)], 1)
    turn = Turn(tokens, np.tile([3, -2], (len(one), 1)))
    if family not in ROTARY:
        with pytest.raises(SiteError, match="no rotary positions"):
            subject.scores(one, one.answers, [(turn,)])
        return
    rng = np.random.default_rng(1)
    by = rng.standard_normal((1, oracle.of.n_layer, oracle.of.d_model)).astype(np.float32)
    shift = Shift(one.tokens("attribute", 0), by)

    def change(row, layer, held):
        held[one.attribute[row, 0]] += by[0, layer]

    edits = frozen(oracle, one, change)
    for row, mine in enumerate(edits):
        mine += [
            Edit(Site.K, layer, tokens[row], scale=1.0, turn=turn.steps[row])
            for layer in range(oracle.of.n_layer)
        ]
    scores = subject.scores(one, one.answers, [(shift, turn), (turn, shift)])
    for found in scores.logprob:
        np.testing.assert_allclose(found, full(oracle, one, edits), **CLOSE)


def test_all_keys_moved_back_is_a_question_further_on(opened):
    family, subject, prompts, _ = opened
    if family not in ROTARY:
        pytest.skip("for rotary positions")
    one = asked(prompts)
    gap = 3
    turn = Turn(everything(one), np.full(everything(one).shape, -gap))
    back = Turn(everything(one), np.full(everything(one).shape, gap))
    scores = subject.scores(one, one.answers, [(turn,), (turn, back), ()])
    np.testing.assert_allclose(scores.logprob[1], scores.logprob[2], **CLOSE)
    # The model's own rotary, with the question's tokens at later positions.
    folder = subject.replay.store.capture["model_folder"]
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    table = subject.replay.store.tokens.to_table(columns=["example", "token_id"])
    example, token = (table[name].to_numpy() for name in ("example", "token_id"))
    for row, number in enumerate(one.example):
        ids = torch.tensor(token[example == number][None].astype(np.int64))
        place = torch.arange(ids.shape[1])[None]
        place[:, int(one.ctx_end[row]) :] += gap
        with torch.no_grad():
            logits = model(
                ids, position_ids=place, attention_mask=torch.ones_like(ids), use_cache=True
            ).logits[0, -1]
        want = log_softmax(logits.numpy())[one.answers[row]]
        np.testing.assert_allclose(scores.logprob[0, row], want, rtol=1e-4, atol=1e-4)


def test_a_whole_other_context_gives_that_contexts_answer(opened):
    _, subject, prompts, oracle = opened
    mine, other = asked(prompts), prompts.of("test", "disjoint")
    # The question that the disjoint context itself has: about its first item.
    mine = mine.take(mine.query == mine.n)
    donor = mine.partners(other)
    put = Put(everything(mine), other.example[donor], everything(other)[donor])
    scores = subject.scores(mine, mine.answers, [(put,)])
    np.testing.assert_allclose(scores.logprob[0], plain(oracle, other)[donor], **CLOSE)


def test_twice_is_not_at_all(opened):
    family, subject, prompts, oracle = opened
    one = asked(prompts)
    swap = Exchange(one.tokens("entity", 0), one.tokens("entity", 1))
    rng = np.random.default_rng(2)
    by = rng.standard_normal((1, oracle.of.n_layer, oracle.of.d_model)).astype(np.float32)
    there, back = (Shift(one.tokens("attribute", 0), sign * by) for sign in (1, -1))
    cases = [(), (swap, swap), (there, back), (swap,), (there,)]
    scores = subject.scores(one, one.answers, cases).logprob
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores[2], scores[0], rtol=1e-4, atol=1e-4)
    # Without positions in the keys the question cannot tell which token holds what: a whole column
    # that is moved changes nothing, whatever the model has learnt.
    assert (np.abs(scores[3] - scores[0]).max() > 1e-3) == (family in ROTARY)
    assert np.abs(scores[4] - scores[0]).max() > 1e-3


def test_one_layer_in_closed_form(opened):
    """With changes at the last layer alone, keys and values of one token are what differs."""
    _, subject, prompts, oracle = opened
    one = asked(prompts).take(np.arange(2))
    last = oracle.of.n_layer - 1
    by = np.zeros((1, last + 1, oracle.of.d_model), np.float32)
    by[0, last] = np.random.default_rng(3).standard_normal(oracle.of.d_model)
    at = one.tokens("attribute", 0)
    scores = subject.scores(one, one.answers, [(Shift(at, by),)])
    edits = [
        [Edit(Site.RESID_PRE, last, at[row], scale=1.0, shift=by[0, last][None])]
        for row in range(2)
    ]
    np.testing.assert_allclose(scores.logprob[0], full(oracle, one, edits), **CLOSE)


def test_batches_are_no_matter(opened, monkeypatch):
    _, subject, prompts, _ = opened
    one = asked(prompts)
    swap = Exchange(one.tokens("entity", 0), one.tokens("entity", 1))
    whole = subject.scores(one, one.answers, [(swap,), ()])
    monkeypatch.setattr("residuum.analyses.binding_ids.captured.RUNS", 3)
    monkeypatch.setattr("residuum.analyses.binding_ids.captured.LOGIT_BYTES", 1000)
    cut = subject.scores(one, one.answers, [(swap,), ()])
    np.testing.assert_allclose(cut.logprob, whole.logprob, **CLOSE)
    np.testing.assert_array_equal(cut.top, whole.top)
