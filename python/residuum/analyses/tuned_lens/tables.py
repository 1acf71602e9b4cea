"""The tables of the tuned lens, and their columns."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from residuum.analyses.registry import TableSpec
from residuum.analyses.result import column

INT32, INT64, DOUBLE = pa.int32(), pa.int64(), pa.float64()
MODEL = column("model", pa.string(), "name of the captured model")
LENS = column("lens", pa.string(), "logit, or the name of the tuned lens")
LAYER = column(
    "layer", INT32, "state: 0 is the embedding, l enters block l, the last is the output"
)
BLOCK = column("block", INT32, "block that the state leaves, SQL's layer; null for state 0")
KL = column("kl_nats", DOUBLE, "mean KL(model's output || lens)", unit="nats")
CE = column("ce_nats", DOUBLE, "mean cross-entropy with the next token", unit="nats")

SPECS = (
    TableSpec(
        "losses",
        "one layer at one step of the training, before the step",
        pa.schema(
            [
                column("step", INT32, "from 0"),
                LAYER,
                column("loss", DOUBLE, "mean over the step's tokens", unit="nats"),
                column("n", INT64, "tokens", unit="tokens"),
            ]
        ),
    ),
    TableSpec(
        "quality",
        "one lens at one layer, over the examples it is judged on",
        pa.schema(
            [
                MODEL,
                LENS,
                LAYER,
                BLOCK,
                CE,
                column(
                    "ce_bpb", DOUBLE, "the same by the bytes of the texts", unit="bits per byte"
                ),
                KL,
                column(
                    "kl_bpb", DOUBLE, "the same by the bytes of the texts", unit="bits per byte"
                ),
                column("entropy", DOUBLE, "mean, of the lens", unit="nats"),
                column(
                    "marginal_kl",
                    DOUBLE,
                    "bias: KL of the mean distributions of model and lens",
                    unit="nats",
                ),
                column("top1_is_final", DOUBLE, "top token is the model's own", unit="share"),
                column("n_tokens", INT64, "tokens", unit="tokens"),
                column("n_targets", INT64, "of these with a next token", unit="tokens"),
            ]
        ),
    ),
    TableSpec(
        "trajectory",
        "one token at one layer through one lens",
        pa.schema(
            [
                LENS,
                column("row", INT64, "row of the token sites"),
                column("seq_id", INT64, "example"),
                column("pos", INT32, "position in the example"),
                LAYER,
                BLOCK,
                column("text", pa.string(), "the token itself"),
                column("top1_id", INT32, "id of the most likely token"),
                column("top1_text", pa.string(), "its text"),
                column("top1_prob", pa.float32(), "its probability", unit="probability"),
                column("entropy", pa.float32(), "of the lens", unit="nats"),
                column("kl_to_final", pa.float32(), "KL(model's output || lens)", unit="nats"),
                column("target_id", INT32, "the true next token; null at the end"),
                column("target_text", pa.string(), "its text"),
                column("target_logprob", pa.float32(), "its log-probability", unit="nats"),
                column("target_rank", INT32, "tokens ranked above it; 0 is best"),
            ]
        ),
    ),
    TableSpec(
        "transfer",
        "the translator of one layer on the states of another",
        pa.schema(
            [
                MODEL,
                column("translator_layer", INT32, "where the translator was trained"),
                column("state_layer", INT32, "whose states go through it"),
                KL,
                CE,
                column(
                    "kl_penalty", DOUBLE, "KL above that of the layer's own translator", unit="nats"
                ),
                column("n_tokens", INT64, "tokens", unit="tokens"),
            ]
        ),
    ),
    TableSpec(
        "covariance",
        "how alike two layers' covariance matrices are",
        pa.schema(
            [
                MODEL,
                LAYER,
                column("other_layer", INT32, "the other state"),
                column("cosine", DOUBLE, "tr(A B) / (|A| |B|), Frobenius"),
                column(
                    "cosine_without_outliers",
                    DOUBLE,
                    "without features whose variance anywhere is 100 times the median",
                ),
                column("n_outliers", INT32, "features left out", unit="features"),
                column("n_tokens", INT64, "tokens", unit="tokens"),
            ]
        ),
    ),
    TableSpec(
        "depth",
        "one token through one lens",
        pa.schema(
            [
                LENS,
                column("row", INT64, "row of the token sites"),
                column("seq_id", INT64, "example"),
                column("pos", INT32, "position in the example"),
                column(
                    "prediction_depth",
                    INT32,
                    "first layer from which on all top tokens are the model's own",
                ),
                column(
                    "target_logprob", pa.float32(), "of the next token, by the model", unit="nats"
                ),
            ]
        ),
    ),
    TableSpec(
        "difficulty",
        "one lens: does its prediction depth tell what is hard",
        pa.schema(
            [
                MODEL,
                LENS,
                column("mean_depth", DOUBLE, "mean prediction depth", unit="layers"),
                column(
                    "spearman",
                    DOUBLE,
                    "rank correlation of depth and surprise of the next token by the model",
                ),
                column("lo", DOUBLE, "2.5 % of draws of examples"),
                column("hi", DOUBLE, "97.5 % of draws of examples"),
                column("n_tokens", INT64, "tokens with a next token", unit="tokens"),
                column("n_examples", INT64, "their examples", unit="examples"),
            ]
        ),
    ),
)
SCHEMAS = {spec.name: spec.schema for spec in SPECS}


def tabled(name: str, made: pa.Table | Iterable[Mapping[str, Any]]) -> pa.Table:
    """A table as it is declared, of rows or of a table."""
    if isinstance(made, pa.Table):
        return made.select(SCHEMAS[name].names).cast(SCHEMAS[name])
    return pa.Table.from_pylist(list(made), SCHEMAS[name])
