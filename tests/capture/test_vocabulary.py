"""The vocabulary: one text per id, with the space that decoding a token alone would drop."""

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from residuum.capture.vocabulary import token_texts


def tokenizer(vocab, decoder=None):
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    if decoder is not None:
        raw.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")


def test_texts_are_indexed_by_id_and_as_long_as_the_models():
    texts = token_texts(tokenizer({"<unk>": 0, "b": 2, "a": 1}), 5)
    assert texts == ["<unk>", "a", "b", "", ""]
    assert token_texts(tokenizer({"<unk>": 0, "a": 1}), None) == ["<unk>", "a"]


def test_leading_space_of_sentencepiece_is_kept():
    texts = token_texts(tokenizer({"<unk>": 0, "▁the": 1, "re": 2}, decoders.Metaspace()), 3)
    assert texts == ["<unk>", " the", "re"]


def test_byte_level_spaces_are_spaces():
    texts = token_texts(tokenizer({"<unk>": 0, "Ġthe": 1, "re": 2}, decoders.ByteLevel()), 3)
    assert texts == ["<unk>", " the", "re"]
