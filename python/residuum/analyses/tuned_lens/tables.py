"""The tables of the tuned lens, and their columns."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from residuum.analyses.registry import TableSpec
from residuum.analyses.result import column
from residuum.analyses.skipped import SKIPPED

INT32, INT64, DOUBLE = pa.int32(), pa.int64(), pa.float64()
MODEL = column("model", pa.string(), "name of the captured model")
LENS = column("lens", pa.string(), "logit, or the name of the tuned lens")
LAYER = column(
    "layer", INT32, "state: 0 is the embedding, l enters block l, the last is the output"
)
BLOCK = column("block", INT32, "block that the state leaves, SQL's layer; null for state 0")
KL = column("kl_nats", DOUBLE, "mean KL(model's output || lens)", unit="nats")
N_TOKENS = column("n_tokens", INT64, "tokens", unit="tokens")
KIND = column("kind", pa.string(), "basis, or random: the control")
RANK = column("rank", INT32, "by energy, from 0; of random ones the draw")
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
                column(
                    "constant_kl_nats",
                    DOUBLE,
                    "KL of the best that says the same everywhere: the mean output",
                    unit="nats",
                ),
                column("entropy", DOUBLE, "mean, of the lens", unit="nats"),
                column(
                    "marginal_kl",
                    DOUBLE,
                    "bias: KL of the mean distributions of model and lens",
                    unit="nats",
                ),
                column("top1_is_final", DOUBLE, "top token is the model's own", unit="share"),
                column(
                    "trained_on",
                    pa.bool_(),
                    "whether the lens was trained on some of the examples; null if not known",
                ),
                N_TOKENS,
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
                column(
                    "js_to_previous",
                    pa.float32(),
                    "Jensen-Shannon divergence from the layer before; null at the first",
                    unit="nats",
                ),
                column(
                    "tv_to_previous",
                    pa.float32(),
                    "total variation from the layer before; null at the first",
                    unit="probability",
                ),
                column(
                    "js_to_lens",
                    pa.float32(),
                    "Jensen-Shannon divergence from the judged lens at the layer; null for itself",
                    unit="nats",
                ),
                column(
                    "tv_to_lens",
                    pa.float32(),
                    "total variation from the judged lens at the layer; null for itself",
                    unit="probability",
                ),
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
                N_TOKENS,
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
                N_TOKENS,
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
    TableSpec(
        "causal_basis",
        "one direction taken out of one layer: how far lens and model move",
        pa.schema(
            [
                MODEL,
                LAYER,
                KIND,
                RANK,
                column("energy", DOUBLE, "KL of the lens, from as it is to without", unit="nats"),
                column(
                    "model_kl",
                    DOUBLE,
                    "KL of the model's output, by replay from that layer",
                    unit="nats",
                ),
                N_TOKENS,
                column("vector", pa.list_(pa.float32()), "the direction, of length 1"),
            ]
        ),
    ),
    TableSpec(
        "fidelity",
        "one layer: does what moves the lens move the model",
        pa.schema(
            [
                MODEL,
                LAYER,
                column("spearman", DOUBLE, "rank correlation of energy and model_kl, all of them"),
                column("spearman_basis", DOUBLE, "the same of the basis alone"),
                column("model_kl_top", DOUBLE, "of the basis' first direction", unit="nats"),
                column("model_kl_basis", DOUBLE, "mean of the basis", unit="nats"),
                column("model_kl_random", DOUBLE, "mean of random directions", unit="nats"),
                column("top_over_random", DOUBLE, "the first over the random mean"),
                column("basis_over_random", DOUBLE, "the basis' mean over the random mean"),
                column("n_directions", INT32, "both kinds", unit="directions"),
                column("n_random", INT32, "random ones", unit="directions"),
            ]
        ),
    ),
    TableSpec(
        "alignment",
        "one direction taken out of one layer: do lens and model move the same way",
        pa.schema(
            [
                MODEL,
                LENS,
                LAYER,
                KIND,
                RANK,
                column("weights", pa.string(), "of tokens: uniform, or marginal, as often as said"),
                column(
                    "alignment",
                    DOUBLE,
                    "mean over examples of the Aitchison cosine of both responses",
                ),
                column("error", DOUBLE, "its standard error over examples"),
                N_TOKENS,
                column("n_examples", INT64, "their examples", unit="examples"),
            ]
        ),
    ),
    TableSpec(
        "ablation",
        "one block without which the model is run",
        pa.schema(
            [
                MODEL,
                column("block", INT32, "from 0"),
                column("method", pa.string(), "what it adds instead: zero, mean or resample"),
                column("kl_nats", DOUBLE, "mean KL(model's output || without)", unit="nats"),
                N_TOKENS,
            ]
        ),
    ),
    TableSpec(
        "gradient",
        "one block, and the gradient of a loss by one state: does what it adds step down",
        pa.schema(
            [
                MODEL,
                column("block", INT32, "whose update it is, from 0"),
                column(
                    "layer",
                    INT32,
                    "state of the gradient: block, which enters it, or block + 1, which leaves it",
                ),
                column(
                    "loss",
                    pa.string(),
                    "model: its cross-entropy with the next token, summed over the example; logit: "
                    "that of the logit lens at the state, each token's own",
                ),
                column(
                    "cosine",
                    DOUBLE,
                    "of what the block adds and the gradient, mean over tokens; below 0 is down",
                ),
                column("negative_share", DOUBLE, "tokens whose cosine is below 0", unit="share"),
                column(
                    "example_negative_share",
                    DOUBLE,
                    "examples whose cosine, of all tokens as one vector, is below 0",
                    unit="share",
                ),
                column("cosine_random", DOUBLE, "control: mean of random directions"),
                column(
                    "cosine_other", DOUBLE, "control: mean of what the block adds at another token"
                ),
                column("n_tokens", INT64, "tokens with a next token", unit="tokens"),
                column("n_examples", INT64, "their examples", unit="examples"),
            ]
        ),
    ),
    TableSpec(
        "anomaly",
        "how well one detector tells odd inputs from clean ones by their trajectories",
        pa.schema(
            [
                MODEL,
                column("task", pa.string(), "which inputs"),
                column("lens", pa.string(), "whose trajectory; null for the last state itself"),
                column("detector", pa.string(), "lof, isolation_forest, or mahalanobis"),
                column("against", pa.string(), "odd inputs, or other clean ones: the control"),
                column("auroc", DOUBLE, "mean over splits of the clean examples"),
                column("auroc_lo", DOUBLE, "2.5 % of draws of examples"),
                column("auroc_hi", DOUBLE, "97.5 % of draws of examples"),
                column("n_splits", INT32, "splits", unit="splits"),
                column("n_train", INT64, "clean examples learnt from", unit="examples"),
                column("n_test", INT64, "examples told apart, both kinds", unit="examples"),
            ]
        ),
    ),
    TableSpec(
        "lens_transfer",
        "the second lens at one layer, beside the first",
        pa.schema(
            [
                column("lens", pa.string(), "the second lens"),
                column("lens_model", pa.string(), "what it was trained on"),
                column("state_model", pa.string(), "whose states go through it"),
                LAYER,
                KL,
                column(
                    "kl_bpb", DOUBLE, "the same by the bytes of the texts", unit="bits per byte"
                ),
                column("own_kl_nats", DOUBLE, "of the first lens", unit="nats"),
                column("penalty_nats", DOUBLE, "how much further it is", unit="nats"),
                column("penalty_bpb", DOUBLE, "the same by the bytes", unit="bits per byte"),
                N_TOKENS,
            ]
        ),
    ),
    SKIPPED,
)
SCHEMAS = {spec.name: spec.schema for spec in SPECS}


def tabled(name: str, made: pa.Table | Iterable[Mapping[str, Any]]) -> pa.Table:
    """A table as it is declared, of rows or of a table."""
    if isinstance(made, pa.Table):
        return made.select(SCHEMAS[name].names).cast(SCHEMAS[name])
    return pa.Table.from_pylist(list(made), SCHEMAS[name])
