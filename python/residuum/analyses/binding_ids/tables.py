"""The tables that `binding_ids` makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from residuum.analyses.registry import TableSpec
from residuum.analyses.result import column

if TYPE_CHECKING:
    from collections.abc import Sequence

INT8, INT32, INT64 = pa.int8(), pa.int32(), pa.int64()
FLOAT, TEXT, BOOL = pa.float64(), pa.string(), pa.bool_()

COMMON = (
    column("task", TEXT, "which prompts"),
    column("n_entities", INT32, "slots of a context"),
    column("split", TEXT, "train or test: which half of the words"),
    column("seed", INT64, "of the prompts"),
)
QUERY = column("query", INT8, "item that is asked about; from n_entities on, of the other context")
ANSWER = column("answer", INT8, "item whose attribute is the candidate")
LOGPROB = column("mean_logprob", FLOAT, "mean log-probability of the candidate", unit="nats")
N = column("n", INT64, "prompts", unit="prompts")
SWAPPED = (
    column("swap_entity", BOOL, "entities were changed"),
    column("swap_attr", BOOL, "attributes were changed"),
)
ACCURACY = column("accuracy", FLOAT, "the expected answer is the likeliest candidate", unit="share")
CALIBRATED = column(
    "cal_accuracy", FLOAT, "the same after each candidate's median is subtracted", unit="share"
)
RAW = column(
    "raw_accuracy", FLOAT, "the expected answer is the likeliest of all tokens", unit="share"
)
CHANCE = column("chance", FLOAT, "accuracy of guessing among the candidates", unit="share")


def _table(name: str, row_is: str, columns: Sequence[pa.Field]) -> TableSpec:
    return TableSpec(name, row_is, pa.schema([*COMMON, *columns]))


FACTORIZABILITY = _table(
    "factorizability",
    "one answer to one query, with a slot's activations from the disjoint context",
    [
        column("side", INT8, "slot whose activations were replaced"),
        *SWAPPED,
        QUERY,
        ANSWER,
        LOGPROB,
        column("chosen", FLOAT, "it is the likeliest of the 2 n candidates", unit="share"),
        column("top", FLOAT, "it is the likeliest of all tokens", unit="share"),
        N,
    ],
)
SWAPS = _table(
    "swaps",
    "one query under a replacement, and the answer that additive IDs predict",
    [
        column("side", INT8, "slot whose activations were replaced"),
        *SWAPPED,
        QUERY,
        column("slot", INT8, "where the queried entity stands"),
        column(
            "removed", BOOL, "the queried entity was replaced, and its old slot's answer counts"
        ),
        column("expected", INT8, "item whose attribute counts"),
        ACCURACY,
        RAW,
        N,
    ],
)
POSITION = _table(
    "position",
    "one answer to one query, with slots 0 and 1 moved towards each other",
    [
        column("how", TEXT, "keys rotated, or columns of the stream exchanged"),
        column("category", TEXT, "what was moved: entity, attribute or both"),
        column("offset", INT32, "steps that slot 0 moved; slot 1 as many back", unit="tokens"),
        column("distance", INT32, "steps of a full exchange", unit="tokens"),
        column("is_local", BOOL, "within 2 steps of no move or of a full exchange"),
        QUERY,
        ANSWER,
        column("is_right", BOOL, "the answer that is right without a move"),
        LOGPROB,
        column("chosen", FLOAT, "it is the likeliest of the n candidates", unit="share"),
        N,
    ],
)
MEAN_INTERVENTION = _table(
    "mean_intervention",
    "one query, with the IDs of slots 0 and 1 exchanged by adding vectors",
    [
        column("delta", TEXT, "mean differences, or random vectors of equal norm"),
        column("draw", INT64, "seed of the random vectors; 0 for the mean"),
        *SWAPPED,
        QUERY,
        ACCURACY,
        CALIBRATED,
        RAW,
        LOGPROB,
        N,
    ],
)
MEAN_SCORES = _table(
    "mean_scores",
    "one candidate of one prompt of mean_intervention",
    [
        column("delta", TEXT, "mean differences, or random vectors of equal norm"),
        column("draw", INT64, "seed of the random vectors; 0 for the mean"),
        *SWAPPED,
        column("prompt_id", INT64, "which words"),
        column("query_slot", INT8, "item that is asked about; n_entities is the null query"),
        ANSWER,
        column("logprob", FLOAT, "over the whole vocabulary", unit="nats"),
    ],
)
CYCLIC = _table(
    "cyclic",
    "one query, with every slot's ID moved on by some slots",
    [
        column("model", TEXT, "name"),
        column("family", TEXT, "of the model"),
        column("n_params", INT64, "numbers in the model's files", unit="weights"),
        column("intervention", TEXT, "none, entity or attribute"),
        column("perm", INT8, "slots that IDs moved on by"),
        QUERY,
        ACCURACY,
        CALIBRATED,
        RAW,
        CHANCE,
        N,
    ],
)
TRANSFER = _table(
    "transfer",
    "one source of IDs, put on the target task's prompts in place of their own",
    [
        column("source_task", TEXT, "whose differences; ZEROS and RANDOM are the controls"),
        column("target_task", TEXT, "whose prompts"),
        ACCURACY,
        CALIBRATED,
        column("mean_logprob_of_intended", FLOAT, "of the intended answer", unit="nats"),
        CHANCE,
        N,
    ],
)
GEOMETRY = _table(
    "geometry",
    "one pair of points in the plane of IDs",
    [
        column("c0_x", FLOAT, "slot 0's ID along the first difference"),
        column("c0_y", FLOAT, "and along the part of the second that is orthogonal to it"),
        column("c1_x", FLOAT, "slot 1's"),
        column("c1_y", FLOAT, "slot 1's"),
        ACCURACY,
        CALIBRATED,
        column("logit_margin", FLOAT, "own answers less the other's, both queries", unit="nats"),
        N,
    ],
)
PLANE = _table(
    "plane",
    "where the differences lie in the plane of the map",
    [
        column("slot", INT8, "whose difference"),
        column("x", FLOAT, "along the first difference"),
        column("y", FLOAT, "along the part of the second that is orthogonal to it"),
        column("n_slots", INT32, "slots of the prompts that they were estimated on"),
    ],
)
MCQ_WIDTH = _table(
    "mcq_width",
    "one width of option line that was exchanged",
    [
        column("width", INT8, "last tokens of each option line", unit="tokens"),
        ACCURACY,
        CALIBRATED,
        RAW,
        N,
    ],
)
COLUMN_SCAN = _table(
    "column_scan",
    "one query, with one context token's column from the disjoint context",
    [
        QUERY,
        column("token", INT32, "the column that was replaced"),
        column("holds", TEXT, "what stands there"),
        column("takes_new", FLOAT, "the replaced context's attribute is answered", unit="share"),
        column("keeps_old", FLOAT, "the own attribute is answered", unit="share"),
        N,
    ],
)
DELTAS = _table(
    "deltas",
    "one mean difference from slot 0, at one layer",
    [
        column("category", TEXT, "entity or attribute"),
        column("slot", INT8, "whose ID, less that of slot 0"),
        column("offset", INT8, "token within the width"),
        column("layer", INT32, "block that it enters"),
        column("norm", FLOAT, "of the difference"),
        column("residual_norm", FLOAT, "mean norm of the stream at that slot"),
        column("ratio", FLOAT, "norm over residual_norm"),
        column("cosine_to_first", FLOAT, "with the difference of slot 1"),
        N,
    ],
)
SLOTS = _table(
    "slots",
    "how well one layer's vectors tell slots apart",
    [
        column("category", TEXT, "entity or attribute"),
        column("layer", INT32, "block that it enters"),
        column("accuracy", FLOAT, "nearest train mean among slots, on test prompts", unit="share"),
        CHANCE,
        column("rank", INT8, "dimensions that hold 99% of the differences' squares"),
        column("first_share", FLOAT, "of these squares along the first dimension", unit="share"),
        N,
    ],
)
SKIPPED = TableSpec(
    "skipped",
    "an experiment that some prompts or the model do not allow",
    pa.schema(
        [
            column("experiment", TEXT, "which"),
            column("task", TEXT, "of which prompts"),
            column("n_entities", INT32, "slots of a context"),
            column("reason", TEXT, "why"),
        ]
    ),
)
TABLES = (
    SWAPS,
    FACTORIZABILITY,
    POSITION,
    MEAN_INTERVENTION,
    MEAN_SCORES,
    CYCLIC,
    TRANSFER,
    GEOMETRY,
    PLANE,
    MCQ_WIDTH,
    COLUMN_SCAN,
    DELTAS,
    SLOTS,
    SKIPPED,
)
