"""The tasks in English from end to end, on a random GPT-2 with a tokenizer of its own."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import residuum
from binding_ids import text_prompts, tokeniser
from residuum.analyses import run
from residuum.analyses.binding_ids.lookup import prompts_of
from residuum.analyses.binding_ids.params import Params
from residuum.analyses.registry import answerable
from residuum.errors import ArgumentError, InputError, SelectionError
from residuum.prompts.binding import TASKS, Draft, Item
from residuum.prompts.binding.options import write
from residuum.report import StoreCard, build, sections

N_ENTITIES = 3
ASKED = ("CAPITALS", "ONEHOP", "BIOS", "MCQ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder whose byte-level tokenizer knows the tasks' words."""
    folder = tmp_path_factory.mktemp("gpt2") / "model"
    texts = []
    for task in TASKS.values():
        for i, entity in enumerate(task.entities):
            draft = Draft()
            item = Item(entity, task.attributes[i % len(task.attributes)], "red")
            task.write(draft, [item, item])
            task.ask(draft, item, [item])
            texts += [draft.text + task.answer(item)] * 3
    texts += [write("Good.", ("positive", "negative")).text] * 50
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False),
    )
    PreTrainedTokenizerFast(tokenizer_object=raw).save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=raw.get_vocab_size(), n_positions=200, n_embd=40, n_layer=2, n_head=2, n_inner=60
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("text")
    rows = [
        row
        for row in text_prompts(ASKED, [N_ENTITIES], tokeniser(folder), n_train=3, n_test=2)
        if row["split"] == "test" or row["prompt_id"] < 3
    ]
    inputs = path / "prompts.jsonl"
    inputs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sites = ["resid_pre", "resid_final"]
    return residuum.capture(folder, inputs, path / "run", sites=sites, device="cpu")


def test_a_report_without_names_asks_it(store):
    assert "binding_ids" in [analysis.name for analysis in answerable(store)]


def test_tokens_are_those_of_the_words(store):
    tokens = store.tokens.to_table(columns=["example", "token", "text"]).to_pylist()
    text = {(row["example"], row["token"]): row["text"] for row in tokens}
    kept = store.examples.to_table(columns=["entities", "attributes", "task"]).to_pylist()
    groups = prompts_of(store, Params())
    assert [(one.task, one.n) for one in groups] == [
        *((task, N_ENTITIES) for task in ASKED[:-1]),
        ("MCQ", 2),
    ]
    for group in groups:
        for row, example in enumerate(group.example):
            words = kept[example]
            for slot in range(group.n):
                entity = text[example, group.entity[row, slot]]
                attribute = text[example, group.attribute[row, slot]]
                assert entity.strip() == words["entities"][slot]
                if group.task == "BIOS":
                    assert words["attributes"][slot].startswith(attribute.strip())
                else:
                    assert attribute.strip() == words["attributes"][slot]
            question = "Answer" if group.task == "MCQ" else "Question"
            assert text[example, group.ctx_end[row]] == question
            if group.task == "MCQ":
                ends = [text[example, at - 1] for at in group.option[row]]
                assert ends == ["\n", "\n"]


def test_every_experiment_runs_or_says_why_not(store):
    found = run("binding_ids", store, grid=2, geometry_prompts=1, scan_prompts=1)
    assert set(found["swaps"]["task"].to_pylist()) == set(ASKED[:-1])
    assert set(found["mcq_width"]["task"].to_pylist()) == {"MCQ"}
    assert found["mcq_width"]["width"].to_pylist() == [0, 1, 2, 3, 4]
    assert found["geometry"].num_rows == 3 * 8 * 4
    assert set(found["cyclic"]["family"].to_pylist()) == {"gpt2"}
    folder = store.capture["model_folder"]
    n_params = GPT2LMHeadModel.from_pretrained(folder).num_parameters()  # tied ones count once
    assert set(found["cyclic"]["n_params"].to_pylist()) == {n_params}
    # Of the other sources only one-hop has other widths of attributes than capitals.
    sources = set(found["transfer"]["source_task"].to_pylist())
    assert sources == {one for one in ASKED[:-1] if one != "ONEHOP"} | {"ZEROS", "RANDOM"}
    reasons = {
        (row["experiment"], row["task"]): row["reason"] for row in found["skipped"].to_pylist()
    }
    assert "from ONEHOP: its widths are not" in reasons["transfer", "CAPITALS"]
    page = build(StoreCard.of(store.info()), [found])
    assert "Swaps: ONEHOP, 3 entities" in page
    assert "Multiple choice: MCQ" in page
    titles = [section.title for section in sections(found)]
    assert titles[-1] == "Not run"
    same = run("binding_ids", store, experiments="transfer", tasks="CAPITALS,BIOS", attr_width=1)
    sources = ["CAPITALS", "BIOS", "ZEROS", "RANDOM"]
    assert same["transfer"]["source_task"].to_pylist() == sources
    with pytest.raises(ArgumentError, match="transfer_target='CAPITAL' is none of the tasks BIOS"):
        run("binding_ids", store, experiments="transfer", transfer_target="CAPITAL")


def test_exchanging_nothing_is_the_plain_accuracy(store):
    """Width 0 of MCQ, against the logits of the model's own pass."""
    found = run("binding_ids", store, experiments=["mcq_width"])["mcq_width"].to_pylist()
    (group,) = prompts_of(store, Params(tasks=("MCQ",)))
    asked, other = group.of("test", "default"), group.of("test", "exchanged")
    right = other.query[asked.partners(other)]
    rows = store.examples.to_table(columns=["first_row"])["first_row"].to_numpy()[asked.example]
    final = store["resid_final"].read(rows=rows + asked.n_token - 1).astype(np.float64)
    centred = final - final.mean(1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    weights = store.weights
    logits = (normed * weights["ln_final.w"] + weights["ln_final.b"]) @ weights["W_U"]
    said = np.take_along_axis(logits, asked.answers, 1).argmax(1)
    assert found[0]["accuracy"] == (said == right).mean()


def test_other_inputs_are_refused(folder, tmp_path):
    sites = ["resid_pre", "resid_final"]
    plain = residuum.capture(folder, ["Alice", "Bob"], tmp_path / "run", sites=sites, device="cpu")
    with pytest.raises(InputError, match=r"the examples of .* have no prompt_id"):
        run("binding_ids", plain)
    assert "binding_ids" not in [analysis.name for analysis in answerable(plain)]


def test_stores_of_some_tokens_are_refused(folder, tmp_path):
    made = list(text_prompts(["MCQ"], [2], tokeniser(folder), n_test=2))
    inputs = tmp_path / "prompts.jsonl"
    inputs.write_text("".join(json.dumps(row) + "\n" for row in made))
    sites = ["resid_pre", "resid_final"]
    last = residuum.capture(
        folder, inputs, tmp_path / "run", sites=sites, positions="last", device="cpu"
    )
    with pytest.raises(SelectionError, match="does not hold every token"):
        run("binding_ids", last)


def test_a_task_that_is_not_there(store):
    with pytest.raises(
        InputError, match=r"there are no prompts of 'FRUITS'.*its tasks are: CAPITALS"
    ):
        run("binding_ids", store, tasks=["FRUITS"])
