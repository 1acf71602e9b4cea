"""Prompts of the binding tasks: words where the spans say, contexts that share them as promised."""

import re
from itertools import groupby

import pytest

from residuum.errors import InputError
from residuum.prompts.binding import (
    TASKS,
    WORLDS,
    fitted,
    option_rows,
    rows,
    vocabulary,
    world,
)
from residuum.prompts.binding.options import write


def tokenise(text):
    """Words with the blank before them, as byte-level tokenizers cut them."""
    found = [(m.group(), *m.span()) for m in re.finditer(r" ?\w+| ?[^\w\s]|\s", text)]
    return [(hash(word) % 100_000, start, end) for word, start, end in found]


def letters(text):
    """A tokenizer that knows no words."""
    return [(ord(letter), at, at + 1) for at, letter in enumerate(text)]


def made(name, **more):
    settings = {"n_entities": 3, "n_train": 4, "n_test": 3, **more}
    task = fitted(TASKS[name], tokenise) if name in TASKS else world(name)
    return list(rows(task, tokenise, **settings))


ALL = [*TASKS, *WORLDS]


@pytest.mark.parametrize("name", ALL)
def test_spans_are_the_words(name):
    for row in made(name):
        text = row["text"]
        for kind, words in (("entity_span", "entities"), ("attr_span", "attributes")):
            assert [text[a:b] for a, b in row[kind]] == row[words]
            assert max(b for _, b in row[kind]) <= row["question_start"]
        question = text[row["question_start"] :]
        assert question.startswith(("Question: ", " "))
        assert not any(word in question for word in row["attributes"] if name != "ONEHOP")


@pytest.mark.parametrize("name", ALL)
def test_contexts_share_words_as_promised(name):
    for (split, _), group in groupby(made(name), lambda row: (row["split"], row["prompt_id"])):
        listed = list(group)
        kinds = [(row["context"], row["rotation"], row["query_slot"]) for row in listed]
        if split == "train":
            assert kinds == [("default", 0, 0), ("rotated", 1, 0), ("rotated", 2, 0)]
            default = listed[0]
            for row in listed[1:]:
                turn = row["rotation"]
                for words in ("entities", "attributes"):
                    assert row[words] == default[words][turn:] + default[words][:turn]
            continue
        assert kinds == [*(("default", 0, q) for q in range(6)), ("disjoint", 0, 3)]
        default, disjoint = listed[0], listed[-1]
        for words in ("entities", "attributes"):
            assert not set(default[words]) & set(disjoint[words])
            assert all(row[words] == default[words] for row in listed[:-1])
        names = default["entities"] + disjoint["entities"]
        for row in listed:
            assert names[row["query_slot"]] in row["text"][row["question_start"] :]
            assert row["query_kind"] == (
                "own" if names[row["query_slot"]] in row["entities"] else "absent"
            )
            assert row["answers"] == default["answers"]


@pytest.mark.parametrize("name", ALL)
def test_halves_of_the_words_do_not_meet(name):
    words = {"train": set(), "test": set()}
    for row in made(name, n_train=50, n_test=50):
        words[row["split"]].update(row["entities"], row["attributes"])
    assert not words["train"] & words["test"]
    assert all(len(half) > 12 for half in words.values())


def test_the_seed_is_what_differs():
    assert made("CAPITALS") == made("CAPITALS")
    other = made("CAPITALS", seed=1)
    assert made("CAPITALS") != other
    # A prompt id keeps its items where the contexts become longer.
    short, long = made("CAPITALS", n_entities=2), made("CAPITALS", n_entities=3)
    assert long[0]["entities"][:2] == short[0]["entities"]


@pytest.mark.parametrize("name", ALL)
def test_answers_are_the_next_tokens(name):
    for row in made(name):
        for answer, token in zip(row["answers"], row["answer_token_ids"], strict=True):
            end = len(row["text"])
            assert token == next(
                t for t, start, _ in tokenise(row["text"] + answer) if start >= end
            )
        if row["split"] == "test":
            assert len(set(row["answer_token_ids"])) == 6


def test_one_hop_needs_two_steps():
    row = made("ONEHOP")[-2]
    context, question = (
        row["text"][: row["question_start"]],
        row["text"][row["question_start"] :],
    )
    assert all(answer not in context for answer in row["answers"])
    assert all(answer in question for answer in row["answers"])


def test_the_late_rule_belongs_to_the_question():
    for name, rule, partner in (
        ("late_resp", " <resp>", [0, 1, 2]),
        ("late_rev", " <rev>", [2, 1, 0]),
    ):
        row = made(name)[0]
        assert row["text"][row["question_start"] :].startswith(rule)
        assert row["partner"] == partner
    assert "<resp>" in made("par")[0]["text"][: made("par")[0]["question_start"]]
    known = set(vocabulary())
    assert all(set(row["text"].split()) <= known for name in WORLDS for row in made(name))


def test_words_of_several_tokens_are_left_out():
    def cut(text):
        """Splits every word of more than five letters, but for what follows a blank line."""
        out = []
        for token, start, end in tokenise(text):
            if end - start > 7:
                out += [(token, start, start + 3), (token + 1, start + 3, end)]
            else:
                out.append((token, start, end))
        return out

    whole, fewer = fitted(TASKS["CAPITALS"], tokenise), fitted(TASKS["CAPITALS"], cut)
    assert len(whole.entities) == len(TASKS["CAPITALS"].entities)
    assert 10 < len(fewer.attributes) < len(whole.attributes)
    assert max(map(len, fewer.attributes)) <= 6
    # Occupations may be of several tokens, but begin with different ones.
    bios = fitted(TASKS["BIOS"], cut)
    assert len(bios.attributes) > 40


def test_refusals():
    with pytest.raises(InputError, match="makes single tokens of 0 entities"):
        fitted(TASKS["CAPITALS"], letters)
    with pytest.raises(InputError, match="a context of 1 entities binds nothing"):
        made("par", n_entities=1)
    with pytest.raises(InputError, match="6 slots need 12 entities of the test words"):
        made("par", n_entities=6)
    with pytest.raises(InputError, match="no world 'parallel'; there are par, adj"):
        world("parallel")

    def joined(text):
        return [(1, 0, len(text))]

    with pytest.raises(InputError, match="joins ' A' to what stands before it"):
        list(option_rows(joined, n=1, seed=0))


def test_options():
    listed = list(option_rows(tokenise, n=40, seed=0))
    assert len(listed) == 80
    for one, other in zip(listed[::2], listed[1::2], strict=True):
        assert (one["context"], other["context"]) == ("default", "exchanged")
        assert one["attributes"] == other["attributes"][::-1]
        assert one["query_slot"] == 1 - other["query_slot"]
        lines = [one["text"][a:b] for a, b in one["option_span"]]
        assert lines == [
            f"{label}. {word}\n" for label, word in zip("AB", one["attributes"], strict=True)
        ]
        assert one["text"].endswith("\nAnswer:")
    assert {row["query_slot"] for row in listed[::2]} == {0, 1}
    assert write("Good.", ("positive", "negative")).text.count("\n") == 5


def test_the_world_of_pairs_puts_each_attribute_behind_its_entity():
    row = made("adj")[0]
    between = [
        row["text"][b:a]
        for (_, b), (a, _) in zip(row["entity_span"], row["attr_span"], strict=True)
    ]
    assert between == [" "] * 3
