"""The tables of the decomposition, and their columns."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from residuum.analyses.registry import TableSpec
from residuum.analyses.result import column
from residuum.analyses.skipped import SKIPPED

INT32, INT64, DOUBLE, TEXT = pa.int32(), pa.int64(), pa.float64(), pa.string()
MODEL = column("model", TEXT, "name of the captured model")
LAYER = column("layer", INT32, "block, from 0")
HEAD = column("head", INT32, "head of the block")
N = column("n", INT64, "images", unit="images")
ACCURACY = column("accuracy", DOUBLE, "zero-shot, of the classes", unit="share")
WORST = column("worst_group", DOUBLE, "accuracy of the worst group", unit="share")
RANK = column("rank", INT32, "from 0")
EXAMPLE = column("example", INT64, "image")

SPECS = (
    TableSpec(
        "exactness",
        "one sum that should be equal to what it is a sum of",
        pa.schema(
            [
                MODEL,
                column(
                    "what",
                    TEXT,
                    "components: shares against the vector, where all were captured; vector: of "
                    "the final stream against `pooled`",
                ),
                column("max_abs", DOUBLE, "largest difference, of any image and direction"),
                column("relative", DOUBLE, "over the largest value"),
                N,
            ]
        ),
    ),
    TableSpec(
        "effect",
        "one component's direct effect on the images' vectors",
        pa.schema(
            [
                MODEL,
                column("component", TEXT, "its name"),
                column("kind", TEXT, "embedding, head, attention bias, MLP or rest"),
                LAYER,
                HEAD,
                column("var_share", DOUBLE, "its variance over that of the whole vector"),
                column("mean_norm", DOUBLE, "mean length of what it adds"),
                column(
                    "class_margin",
                    DOUBLE,
                    "mean of its share along the image's class less that along the others",
                ),
                N,
            ]
        ),
    ),
    TableSpec(
        "ablation",
        "one set of components that is replaced by its mean over the images",
        pa.schema(
            [
                MODEL,
                column("dataset", TEXT, "name of the store"),
                column("what", TEXT, "the set"),
                column("upto_layer", INT32, "of attention: layers 0 to this one; else null"),
                ACCURACY,
                WORST,
                N,
            ]
        ),
    ),
    TableSpec(
        "textspan",
        "one text of a head",
        pa.schema(
            [
                MODEL,
                LAYER,
                HEAD,
                RANK,
                column("text", TEXT, "what it says"),
                column("text_id", INT64, "example of the store of texts"),
                column("var_explained", DOUBLE, "of the head's variance", unit="share"),
                column("cum_explained", DOUBLE, "with those before it", unit="share"),
            ]
        ),
    ),
    TableSpec(
        "textspan_accuracy",
        "how well classes are told where heads say their first texts alone",
        pa.schema(
            [
                MODEL,
                column("pool", TEXT, "texts, or random directions: the control"),
                column("m", INT32, "texts of a head; 0 is its mean alone"),
                ACCURACY,
                N,
            ]
        ),
    ),
    TableSpec(
        "top_images",
        "one of the images to which a head adds most along its first text",
        pa.schema(
            [
                MODEL,
                LAYER,
                HEAD,
                column("text", TEXT, "the head's first text"),
                RANK,
                EXAMPLE,
                column("value", DOUBLE, "what the head adds along the text"),
            ]
        ),
    ),
    TableSpec(
        "groups",
        "one group of images, without some components",
        pa.schema(
            [
                MODEL,
                column("how", TEXT, "how the components were chosen; see `repair`"),
                column("removed", TEXT, "JSON: heads [[layer, head], …] and other components"),
                column("group_y", TEXT, "class"),
                column("group_b", TEXT, "value of the column that should not matter"),
                column("accuracy", DOUBLE, "of the group", unit="share"),
                column("lo", DOUBLE, "2.5 % (Wilson)", unit="share"),
                column("hi", DOUBLE, "97.5 % (Wilson)", unit="share"),
                N,
            ]
        ),
    ),
    TableSpec(
        "repair",
        "one way to remove what should not matter",
        pa.schema(
            [
                MODEL,
                column(
                    "how",
                    TEXT,
                    "none; ranked by texts; sql; greedy by labels; random: mean of draws; mlps; "
                    "mlps and ranked; projection of the cue out of the whole vector, the rival",
                ),
                column("n_head", INT32, "heads that are ablated"),
                column("removed", TEXT, "JSON: heads [[layer, head], …] and other components"),
                WORST,
                column("worst_lo", DOUBLE, "2.5 % (Wilson; of random draws the 5 % quantile)"),
                column("worst_hi", DOUBLE, "97.5 % (Wilson; of random draws the 95 % quantile)"),
                column("balanced", DOUBLE, "mean over groups", unit="share"),
                ACCURACY,
                N,
            ]
        ),
    ),
    TableSpec(
        "retrieval",
        "how often the images nearest to others in what a head says agree in a property",
        pa.schema(
            [
                MODEL,
                column("property", TEXT, "column of the images"),
                LAYER,
                HEAD,
                column("agreement", DOUBLE, "of the nearest images; null head: whole vector"),
                column("chance", DOUBLE, "of images drawn at random", unit="share"),
                column("k", INT32, "nearest images", unit="images"),
                N,
            ]
        ),
    ),
    TableSpec(
        "similar",
        "one of the images nearest to another in what the best head of a property says",
        pa.schema(
            [
                MODEL,
                column("property", TEXT, "column of the images"),
                LAYER,
                HEAD,
                column("query_image", INT64, "example that others are compared with"),
                RANK,
                column("image_id", INT64, "example that was found"),
                column("sim", DOUBLE, "cosine of centred outputs"),
            ]
        ),
    ),
    TableSpec(
        "heatmap",
        "one patch of one image: what it adds along a text",
        pa.schema(
            [
                MODEL,
                EXAMPLE,
                column("layer", INT32, "null: all layers with patches"),
                column("head", INT32, "null: all heads"),
                column("text", TEXT, "class, or the head's first text"),
                column("patch", INT32, "row by row from 0; the class token is left out"),
                column("value", pa.float32(), "share of the image's vector along the text"),
            ]
        ),
    ),
    TableSpec(
        "segment",
        "how well the maps of one method find the objects",
        pa.schema(
            [
                MODEL,
                column("method", TEXT, "decomposition, or a rival"),
                column("pixel_acc", DOUBLE, "misleads where objects are small", unit="share"),
                column("miou", DOUBLE, "mean over object and ground", unit="share"),
                column("foreground_iou", DOUBLE, "of the object", unit="share"),
                column("map", DOUBLE, "mean average precision", unit="share"),
                N,
            ]
        ),
    ),
    TableSpec(
        "pictures",
        "a small copy of an image that the other tables speak of",
        pa.schema(
            [
                EXAMPLE,
                column("width", INT32, "of the copy", unit="pixels"),
                column("height", INT32, "of the copy", unit="pixels"),
                column("png", pa.binary(), "the copy"),
            ]
        ),
    ),
    SKIPPED,
)


def tabled(name: str, rows: Iterable[Mapping[str, Any]] | pa.Table) -> pa.Table:
    """Rows as the table of that name."""
    schema = next(spec.schema for spec in SPECS if spec.name == name)
    if isinstance(rows, pa.Table):
        return rows.select(schema.names).cast(schema)
    return pa.Table.from_pylist([dict(row) for row in rows], schema)
