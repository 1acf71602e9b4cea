"""Tokenising: spans, the context checked by row, windows that leave no token out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from residuum.capture.tokenise import LengthRule, TokenisedText, Tokeniser
from residuum.errors import InputError

WORDS = ["<pad>", "<unk>", "<bos>", "<eos>", *(f"w{i}" for i in range(50))]
CHAT = "{% for m in messages %}<bos> {{ m.content }} {% endfor %}"


def make_tokenizer(*, special: bool) -> PreTrainedTokenizerFast:
    vocab = {word: i for i, word in enumerate(WORDS)}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if special:
        raw.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 3)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
    )


PLAIN = make_tokenizer(special=False)
SPECIAL = make_tokenizer(special=True)


def text_of(n: int) -> str:
    return " ".join(f"w{i % 50}" for i in range(n))


def tokenise(texts, rule, tokenizer=PLAIN, kind="text") -> list[list[TokenisedText]]:
    return list(Tokeniser(tokenizer, rule)(texts, kind, 10))


def test_ids_and_spans_are_those_of_the_text():
    text = "w3  w1 zzz"
    [[one]] = tokenise([text], LengthRule(8))
    assert one.ids.tolist() == [7, 5, 1]
    assert [text[a:b] for a, b in one.spans] == ["w3", "w1", "zzz"]


def test_special_tokens_stand_for_no_text():
    [[one]] = tokenise(["w3 w1"], LengthRule(8), SPECIAL)
    assert one.ids.tolist() == [2, 7, 5, 3]
    assert one.spans.tolist() == [[-1, -1], [0, 2], [3, 5], [-1, -1]]


def test_text_longer_than_the_context_names_row_and_remedies():
    with pytest.raises(InputError) as error:
        tokenise([text_of(3), text_of(9)], LengthRule(8))
    assert all(
        word in str(error.value) for word in ["row 11", "9 tokens", "8", "--truncate", "--window"]
    )


def test_truncate_keeps_the_special_tokens_around():
    [[one]] = tokenise([text_of(9)], LengthRule(5, truncate=True), SPECIAL)
    assert one.ids.tolist() == [2, 4, 5, 6, 3]


def test_text_without_tokens_names_the_row_unless_the_tokenizer_adds_some():
    with pytest.raises(InputError, match="row 11 has no tokens"):
        tokenise(["w1", "  "], LengthRule(8))
    [[one]] = tokenise([""], LengthRule(8), SPECIAL)
    assert one.ids.tolist() == [2, 3]


@given(
    n=st.integers(1, 40),
    window=st.integers(3, 12),
    stride=st.integers(1, 10),
    special=st.booleans(),
)
def test_windows_cover_every_token_and_keep_their_offset(n, window, stride, special):
    size = window - 2 * special
    stride = min(stride, size)
    rule = LengthRule(12, window=window, stride=stride)
    [windows] = tokenise([text_of(n)], rule, SPECIAL if special else PLAIN)
    whole = np.array([4 + i % 50 for i in range(n)])
    covered = set()
    for i, one in enumerate(windows):
        own = one.ids[1:-1] if special else one.ids
        assert one.token_offset == i * stride
        assert own.tolist() == whole[one.token_offset : one.token_offset + size].tolist()
        covered |= set(range(one.token_offset, one.token_offset + len(own)))
        assert len(one.ids) <= window
    assert covered == set(range(n))
    assert len(windows) == 1 or windows[-2].token_offset + size < n, "no window inside another"


def test_a_stride_that_would_lose_tokens_is_refused():
    with pytest.raises(InputError, match="leave out tokens"):
        tokenise([text_of(20)], LengthRule(12, window=8, stride=7), SPECIAL)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"truncate": True, "window": 4}, "exclude each other"),
        ({"stride": 4}, "needs --window"),
        ({"window": 0}, "at least one token"),
        ({"window": 4, "stride": 0}, "at least one token apart"),
        ({"window": 9}, "longer than the model's context of 8"),
    ],
)
def test_rules_that_mean_nothing_are_refused(settings, says):
    with pytest.raises(InputError, match=says):
        LengthRule(8, **settings)


def test_chat_goes_through_the_template_without_more_special_tokens():
    tokenizer = make_tokenizer(special=True)
    tokenizer.chat_template = CHAT
    chat = [{"role": "user", "content": "w1", "name": None}, {"role": "assistant", "content": "w2"}]
    [[one]] = tokenise([chat], LengthRule(8), tokenizer, "chat")
    assert one.ids.tolist() == [2, 5, 2, 6]


def test_chat_without_template_is_refused():
    with pytest.raises(InputError, match=r"row 10 .* no chat template"):
        tokenise([[{"role": "user", "content": "w1"}]], LengthRule(8), PLAIN, "chat")


def test_ids_that_the_model_does_not_know_name_the_row():
    with pytest.raises(
        InputError, match="row 11 has the token id 53, but the model knows ids 0 to 49"
    ):
        list(Tokeniser(PLAIN, LengthRule(8), 50)(["w1", "w49"], "text", 10))
