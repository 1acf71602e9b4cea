"""The tables of the study, and their columns."""

import pyarrow as pa

from residuum.analyses.registry import TableSpec
from residuum.analyses.result import column
from residuum.analyses.skipped import SKIPPED

MODEL = column("model", pa.string(), "name of the captured model")
DATASET = column("dataset", pa.string(), "data set; `all` is the average of data sets")
SETTING = column("setting", pa.string(), "how the false prefix labels: permuted, half_permuted, …")
FORMAT = column("format", pa.string(), "prompt format; `all` is the average of formats")
PREFIX = column("prefix", pa.string(), "true or false demonstrations")
STATE = column("state_index", pa.int32(), "0 is the embedding, l the stream after l blocks")
BLOCK = column("block", pa.int32(), "the block that the state leaves, from 0; null for state 0")
LAYER = column("layer", pa.int32(), "block, from 0")
HEAD = column("head", pa.int32(), "head within the layer")
N = column("n", pa.int64(), "prompts", unit="prompts")

DEMOS = TableSpec(
    "demos",
    "one demonstration of one prompt",
    pa.schema(
        [
            column("example", pa.int64(), "example of the store"),
            column("prompt_id", pa.int64(), "number of the pair"),
            column("dataset", pa.string(), "data set"),
            column("prompt_format", pa.string(), "template"),
            SETTING,
            PREFIX,
            column("demo", pa.int32(), "place in the prompt, from 0"),
            column("n_demo", pa.int32(), "demonstrations of the prompt"),
            column("n_class", pa.int32(), "labels of the data set"),
            column("true_label", pa.int32(), "class of the input"),
            column("shown_label", pa.int32(), "class that the prompt says"),
            column("row", pa.int64(), "row of the token before the label; null if not stored"),
            column("pre_label_token", pa.int32(), "position of that token"),
            column("label_tokens", pa.list_(pa.int32()), "positions of the label's tokens"),
            column("first_token_id", pa.int32(), "the label's first token"),
        ]
    ),
)
ACCURACY = TableSpec(
    "accuracy",
    "one measure at one state and demonstration, averaged over prompts",
    pa.schema(
        [
            MODEL,
            DATASET,
            SETTING,
            FORMAT,
            PREFIX,
            STATE,
            column("demo", pa.int32(), "demonstration, from 0: the first has none before it"),
            column(
                "metric",
                pa.string(),
                "calibrated, uncalibrated, top_1, label_space, top_match, permuted_score",
            ),
            column("mean", pa.float64(), "share of prompts; of label_space the mean probability"),
            column("lo", pa.float64(), "mean - 1.96 standard errors"),
            column("hi", pa.float64(), "mean + 1.96 standard errors"),
            N,
            column("chance", pa.float64(), "1 / labels; of `all` its average"),
        ]
    ),
)
CRITICAL = TableSpec(
    "critical_layers",
    "one data set and setting",
    pa.schema(
        [
            MODEL,
            DATASET,
            SETTING,
            column(
                "state_index",
                pa.int32(),
                "first state with half of the final gap; null if that is not above 2 standard "
                "errors",
            ),
            BLOCK,
            column(
                "final_gap", pa.float64(), "calibrated accuracy, true - false prefix, at the end"
            ),
            column("final_gap_error", pa.float64(), "its standard error over pairs of prompts"),
            N,
        ]
    ),
)
EXIT = TableSpec(
    "early_exit",
    "one data set and setting",
    pa.schema(
        [
            MODEL,
            DATASET,
            SETTING,
            column("state_index", pa.int32(), "state that is read in place of the last"),
            BLOCK,
            column("acc_true", pa.float64(), "calibrated accuracy there, true prefix"),
            column("acc_false", pa.float64(), "calibrated accuracy there, false prefix"),
            column("delta_true", pa.float64(), "acc_true minus that of the last state"),
            column("delta_false", pa.float64(), "acc_false minus that of the last state"),
        ]
    ),
)
MATCHING = TableSpec(
    "prefix_matching",
    "one head on one data set, averaged over prompts",
    pa.schema(
        [
            MODEL,
            DATASET,
            SETTING,
            LAYER,
            HEAD,
            column("demo", pa.int32(), "demonstration whose last token before the label looks"),
            PREFIX,
            column(
                "pm_label",
                pa.float64(),
                "attention on labels of the same shown class - that on others / (labels - 1)",
            ),
            column("pm_prelabel", pa.float64(), "the same of the tokens before labels"),
            column("on_labels", pa.float64(), "attention on all labels", unit="share"),
            N,
            column("rank", pa.int32(), "by pm_label on the false prefix, from 0; null for others"),
            column("selected", pa.bool_(), "whether heads are chosen on this data set and setting"),
        ]
    ),
)
ABLATIONS = TableSpec(
    "ablations",
    "one ablation on one data set, setting and prefix",
    pa.schema(
        [
            MODEL,
            column(
                "dataset",
                pa.string(),
                "data set; `all` is the average of those on which heads were not chosen",
            ),
            SETTING,
            column(
                "ablation",
                pa.string(),
                "none, late_attention, late_mlp, late_layers, pm_heads, random_matched (of the "
                "same layers) or random_any",
            ),
            column("kind", pa.string(), "what is put in place; null where nothing is"),
            column("n_heads", pa.int32(), "heads that are ablated; null where not heads are"),
            column("seed", pa.int32(), "of random heads"),
            column("parts", pa.string(), "the heads, or the blocks"),
            PREFIX,
            column("cal_acc", pa.float64(), "calibrated accuracy of the last state"),
            column("lo", pa.float64(), "cal_acc - 1.96 standard errors"),
            column("hi", pa.float64(), "cal_acc + 1.96 standard errors"),
            column("top_1", pa.float64(), "share of prompts whose likeliest token is right"),
            column(
                "gap_reduction",
                pa.float64(),
                "share of the gap between the prefixes that closes; null if there is no gap",
            ),
            column(
                "delta_true", pa.float64(), "cal_acc of the true prefix - that without ablation"
            ),
            N,
            column("selected_on", pa.bool_(), "whether heads were chosen on this data set"),
        ]
    ),
)
COPYING = TableSpec(
    "label_copying",
    "one head on one data set",
    pa.schema(
        [
            MODEL,
            DATASET,
            SETTING,
            LAYER,
            HEAD,
            column(
                "shown_logit_minus_mean",
                pa.float64(),
                "what looking at a label adds to its logit, minus the mean over labels",
                unit="logits",
            ),
            column("n", pa.int64(), "labels that were looked at", unit="labels"),
        ]
    ),
)
SPECS = (DEMOS, ACCURACY, CRITICAL, EXIT, MATCHING, ABLATIONS, COPYING, SKIPPED)
