"""Prompts of demonstrations: pairs, labels and where they stand, for tokenizers of both kinds."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from residuum.errors import InputError
from residuum.prompts import demonstrations
from residuum.prompts.demonstrations import (
    SETTINGS,
    TEMPLATES,
    Dataset,
    Item,
    Template,
    build,
    first_tokens,
    letters,
    load,
    unnatural,
    with_letters,
)

ODD = Dataset(
    "odd",
    tuple(Item({"text": f"word{i} ünder"}, i % 3) for i in range(24)),
    (
        Template("colon", "{text}: ", ("up", "down", "side ways")),
        Template("told", "Say: {text}\nIt is ", ("no", "yes", "both"), instruction="Answer."),
    ),
)


def byte_level(*, bos):
    """A tokenizer of bytes, whose blanks stand before words; with or without a token in front."""
    raw = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(byte_letters())}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    if bos:
        raw.add_special_tokens(["<bos>"])
        raw.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", raw.token_to_id("<bos>"))]
        )
    return raw


def byte_letters():
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def encode_with(raw):
    def encode(text):
        made = raw.encode(text)
        return [(i, a, b) for i, (a, b) in zip(made.ids, made.offsets, strict=True)]

    return encode


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("dataset", [ODD, unnatural(), letters()], ids=lambda d: d.name)
def test_pairs_share_all_but_the_labels(dataset, setting):
    rows = build(dataset, n_prompt=20, n_demo=9, settings=[setting], seed=3)
    assert len(rows) == 2 * 20 * len(dataset.templates)
    for true, false in zip(rows[::2], rows[1::2], strict=True):
        assert (true["prefix"], false["prefix"]) == ("true", "false")
        shared = ("prompt_id", "dataset", "prompt_format", "setting", "labels", "true_label")
        assert all(true[name] == false[name] for name in shared)
        assert true["shown_label"] == true["true_label"]
        assert without_labels(true) == without_labels(false)
        for row in (true, false):
            assert len(row["true_label"]) == 9
            words = [
                row["text"][a:b] for a, b in zip(row["label_start"], row["label_end"], strict=True)
            ]
            assert words == [row["labels"][label] for label in row["shown_label"]]


def without_labels(row):
    """A prompt's text with its labels cut out."""
    text, end = "", 0
    for a, b in zip(row["label_start"], row["label_end"], strict=True):
        text, end = text + row["text"][end:a] + "|", b
    return text + row["text"][end:]


@given(seed=st.integers(0, 2**32), n_class=st.integers(2, 6))
def test_a_permutation_has_no_fixed_point(seed, n_class):
    items = tuple(Item({"text": str(i)}, i % n_class) for i in range(8 * n_class))
    labels = tuple("abcdef"[:n_class])
    dataset = Dataset("any", items, (Template("t", "{text} ", labels),))
    false = build(dataset, n_prompt=1, n_demo=8, seed=seed)[1]
    moved = dict(zip(false["true_label"], false["shown_label"], strict=True))
    assert all(
        moved[t] == s for t, s in zip(false["true_label"], false["shown_label"], strict=True)
    )
    assert len(set(moved.values())) == len(moved)
    assert all(t != s for t, s in moved.items())


def test_settings_are_what_they_say():
    rows = build(ODD, n_prompt=400, n_demo=6, settings=SETTINGS)
    kept = {setting: [] for setting in SETTINGS}
    for row in rows:
        if row["prefix"] == "false":
            pairs = zip(row["true_label"], row["shown_label"], strict=True)
            kept[row["setting"]] += [t == s for t, s in pairs]
    n = 400 * 6 * 2
    assert not any(kept["permuted"])
    # Shares within 4 standard errors.
    for setting, share in (("half_permuted", 1 / 2), ("random", 1 / 3)):
        error = (share * (1 - share) / n) ** 0.5
        # Both formats show the same draws, so that only half of them are independent.
        assert abs(np.mean(kept[setting]) - share) < 4 * error * 2**0.5


def test_items_do_not_repeat_and_more_prompts_begin_with_the_fewer():
    few, more = (build(ODD, n_prompt=n, n_demo=12, seed=7)[: 2 * 3] for n in (3, 10))
    assert few == more
    lines = few[0]["text"].split("\n\n")
    assert len({line.partition(":")[0] for line in lines}) == 12
    assert few != build(ODD, n_prompt=3, n_demo=12, seed=8)[: 2 * 3]


@pytest.mark.parametrize("bos", [False, True])
def test_the_token_before_a_label_is_followed_by_its_first(bos):
    raw = byte_level(bos=bos)
    encode = encode_with(raw)
    rows = build(ODD, n_prompt=3, n_demo=4, encode=encode)
    first = {t.name: first_tokens(ODD, t, encode) for t in ODD.templates}
    for row in rows:
        tokens = encode(row["text"])
        assert (tokens[0][1:] == (0, 0)) == bos
        for label, start in zip(row["shown_label"], row["label_start"], strict=True):
            at = next(i for i, (_, a, b) in enumerate(tokens) if a <= start < b)
            assert tokens[at][0] == first[row["prompt_format"]][label]
            assert tokens[at - 1][2] <= start
            assert at - 1 in row["pre_label_token"]
        assert len(row["pre_label_token"]) == 4
        assert row["query_token"] == [max(row["pre_label_token"])]


def test_labels_that_begin_alike_are_refused():
    template = Template("t", "{text}: ", ("negative", "neutral"))
    dataset = Dataset("d", (Item({"text": "a"}, 0), Item({"text": "b"}, 1)), (template,))
    with pytest.raises(InputError, match=r"'negative' and 'neutral' of d .* same token"):
        build(dataset, n_prompt=1, n_demo=1, encode=encode_with(byte_level(bos=False)))


def test_a_label_without_a_token_of_its_own_is_refused():
    def words(text):
        return [(1, 0, len(text))]

    with pytest.raises(InputError, match="no token of its own"):
        build(ODD, n_prompt=1, n_demo=1, encode=words)


def test_a_context_keeps_the_mean_length_down():
    encode = encode_with(byte_level(bos=False))
    long = [Item({"text": "x" * (5 + 40 * (i % 4 == 0))}, i % 2) for i in range(80)]
    dataset = Dataset("d", tuple(long), (Template("t", "{text}: ", ("up", "down")),))
    free, kept = (
        build(dataset, n_prompt=20, n_demo=8, encode=encode, context=context)
        for context in (None, 160)
    )
    assert max(len(encode(row["text"])) for row in free) > 160
    assert max(len(encode(row["text"])) for row in kept) <= 160
    with pytest.raises(InputError, match="no item of d is short enough for place 0"):
        build(dataset, n_prompt=1, n_demo=8, encode=encode, context=8)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n_prompt": 0}, "1 prompt or more"),
        ({"n_demo": 99}, "repeats none"),
        ({"settings": ["permutated"]}, "no setting 'permutated'"),
        ({"context": 100}, "give `encode`"),
    ],
)
def test_what_cannot_be_built_is_said(asked, message):
    with pytest.raises(InputError, match=message):
        build(ODD, **{"n_prompt": 1, "n_demo": 2, **asked})
    given = {"n_prompt": 1, "n_demo": 2}
    assert build(ODD, **given, settings="random") == build(ODD, **given, settings=["random"])


def test_templates_of_the_fourteen_sets():
    classes = {name: len(templates[0].labels) for name, templates in TEMPLATES.items()}
    assert classes == {
        "sst2": 2,
        "agnews": 4,
        "trec": 6,
        "dbpedia": 14,
        "rte": 2,
        "mrpc": 2,
        "tweet_hate": 2,
        "sick": 3,
        "poem_sentiment": 3,
        "ethos": 2,
        "financial_phrasebank": 3,
        "medical_questions_pairs": 2,
        "tweet_stance_feminist": 3,
        "tweet_stance_atheism": 3,
    }
    assert len(TEMPLATES["sst2"]) == 15
    for templates in TEMPLATES.values():
        assert len({t.name for t in templates}) == len(templates)
        assert len({(t.instruction, t.demonstration, t.labels) for t in templates}) == len(
            templates
        )
        assert all(t.demonstration[-1].isspace() for t in templates)
        assert all(set(t.fields) == set(templates[0].fields) for t in templates)


def test_a_file_is_loaded(tmp_path):
    file = tmp_path / "rte.jsonl"
    lines = [
        {"premise": "it rains", "hypothesis": " it is wet ", "label": "yes"},
        {"premise": "it rains", "hypothesis": "it is dry", "label": 1, "source": "ours"},
    ]
    file.write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    dataset = load(file, "rte")
    assert [(dict(item.fields), item.label) for item in dataset.items] == [
        ({"premise": "it rains", "hypothesis": "it is wet"}, 0),
        ({"premise": "it rains", "hypothesis": "it is dry"}, 1),
    ]
    text = build(dataset, n_prompt=1, n_demo=2)[0]["text"]
    assert "Premise: it rains\nHypothesis: it is dry\nDoes it follow? no." in text
    own = load(file, "mine", [Template("t", "{hypothesis} ", ("yes", "no"))])
    assert own.name == "mine"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is not JSON"),
        ("[1]", "line 1 is a JSON list, not an object"),
        ('{"label": 0}', "no text in the field 'text'"),
        ('{"text": " ", "label": 0}', "no text in the field 'text'"),
        ('{"text": "a", "label": 2}', "label 2: it is a number from 0 to 1"),
        ('{"text": "a", "label": true}', "label True"),
        ('{"text": "a", "label": "good"}', "label 'good'"),
        ('{"text": "a", "label": 0}', "no item of class 1"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, line, message):
    file = tmp_path / "sst2.jsonl"
    file.write_text(line, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load(file, "sst2")


def test_an_unknown_set_or_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no templates for 'imdb'"):
        load(tmp_path / "imdb.jsonl", "imdb")
    with pytest.raises(InputError, match="there is no file"):
        load(tmp_path / "sst2.jsonl", "sst2")


def test_synthetic_sets():
    words = unnatural()
    assert [len(items) for items in words.by_class] == [30, 30, 30]
    assert len({item.fields["text"] for item in words.items}) == 90
    row = build(words, n_prompt=1, n_demo=90)[0]
    assert "carrot: vegetable." in row["text"].split("\n")
    assert letters().templates[0].labels == ("A", "B")
    assert with_letters(words).templates[0].labels == ("A", "B", "C")
    assert with_letters(words).name == "unnatural-AC"


@pytest.mark.parametrize(
    "make", ["curve_world", "model_a_world", "model_a_shared_world", "model_b_world"]
)
def test_a_world_is_text_and_ids_alike(make):
    world = getattr(demonstrations, make)()
    rng = np.random.default_rng(0)
    ids, at = world.corpus(rng, 50, "true")
    assert (ids[:, 0] == 0).all()
    assert (ids[:, at - 1] == world.words.index("<sep>")).all()
    assert np.isin(ids[:, at], world.labels).all()
    number = {word: token for token, word in enumerate(world.words)}
    for dataset, labels in zip(world.datasets, world.labels, strict=True):
        row = build(dataset, n_prompt=1, n_demo=world.n_demo)[1]
        encoded = [0, *(number[word] for word in row["text"].split())]
        assert len(encoded) == ids.shape[1]
        assert [encoded[i] for i in at] == [labels[label] for label in row["shown_label"]]


@pytest.mark.parametrize("make", ["model_a_world", "model_b_world"])
def test_lies_are_per_class(make):
    """In a lying sequence a class has one label throughout, its own in 5 of 8 sequences."""
    world = getattr(demonstrations, make)()
    ids, at = world.corpus(np.random.default_rng(1), 3000, "lying")
    class_of = {}
    for dataset in world.items:
        for label, items in enumerate(dataset):
            class_of |= {tuple(item): label for item in items.tolist()}
    width = world.items.shape[3]
    items = np.stack([ids[:, at - 1 - width + i] for i in range(width)], axis=2)
    true = np.array([[class_of[tuple(item)] for item in row] for row in items.tolist()])
    shown = (ids[:, at] - world.labels[0, 0]) % 4
    own = []
    for label in range(4):
        of = np.where(true == label, shown, -1)
        least, most = np.where(of < 0, 9, of).min(1), of.max(1)
        there = most >= 0
        assert (least[there] == most[there]).all()
        own.append((most[there] == label).mean())
    np.testing.assert_allclose(own, 5 / 8, atol=0.04)  # 4 standard errors
