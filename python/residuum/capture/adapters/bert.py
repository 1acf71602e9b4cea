"""BERT and RoBERTa: bidirectional, LayerNorm after each sum, an example is the mean of its tokens.

RoBERTa differs only in how it numbers positions: from its padding id on, so padded tokens must
carry that id (`Tracer.collate` sees to it).
"""

from residuum.capture.adapters.base import Adapter, Config, Tap


def _roberta_context(config: Config) -> int:
    """Return the longest example: RoBERTa's table of positions starts behind the padding id."""
    length = int(config.max_position_embeddings)
    if config.model_type == "roberta":
        return length - int(config.pad_token_id) - 1
    return length


def _unlike(config: Config) -> str | None:
    if config.is_decoder:
        return "it looks at earlier tokens alone (is_decoder is true), as no encoder does"
    return None


BERT = Adapter(
    family="bert",
    kind="text",
    model_types={"bert": "BertModel", "roberta": "RobertaModel"},
    models={
        "BertModel": "",
        "BertForMaskedLM": "bert",
        "RobertaModel": "",
        "RobertaForMaskedLM": "roberta",
    },
    # The pooler is never run, and many sentence encoders come without one.
    load_options={
        "BertModel": {"add_pooling_layer": False},
        "RobertaModel": {"add_pooling_layer": False},
    },
    heads=frozenset({"BertForMaskedLM", "RobertaForMaskedLM"}),
    unlike=_unlike,
    blocks="encoder.layer",
    attention="attention.self",
    q=Tap("attention.self.query", "output"),
    k=Tap("attention.self.key", "output"),
    v=Tap("attention.self.value", "output"),
    out_proj="attention.output.dense",
    mlp_pre=Tap("intermediate.dense", "output"),
    mlp_post=Tap("output.dense", "input"),
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    final_norm=None,
    post_norm=True,
    causal=False,
    pooling="mean",
    linear_unembedding=False,
    context=_roberta_context,
)
