"""`residuum capture`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from residuum.cli.options import Codec, Dtype, FilePath, debug_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command(short_help="Run a model once and keep what it did.")
@click.argument("model")
@click.argument("inputs", metavar="INPUT", type=FilePath)
@click.option("-o", "--out", required=True, metavar="RUN", help="The store to make.")
@click.option(
    "--site",
    "sites",
    multiple=True,
    metavar="SITE",
    help="A site to keep, such as resid_post, z, pattern; may be given more than once.",
)
@click.option("--layers", metavar="0:12", help="Layers to keep: 5, 0:12 (0 to 11), 0,5,11.")
@click.option(
    "--positions",
    default="all",
    show_default=True,
    metavar="all|last|first|column:NAME",
    help="Tokens to keep. A column marks them with booleans or positions.",
)
@click.option(
    "--keys",
    type=click.Choice(["all", "stored"]),
    default="all",
    show_default=True,
    help="Keys of pattern and attn_scores: every token, or those that --positions keeps.",
)
@click.option(
    "--dtype",
    type=Dtype,
    help="What is stored; by default what the model computes in.",
)
@click.option(
    "--model-dtype",
    type=click.Choice(["float32", "float16", "bfloat16", "float64"]),
    help="What the model computes in; by default what its checkpoint says.",
)
@click.option(
    "--batch-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Padded tokens in a batch (4096).",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--schedule",
    type=click.Choice(["forward", "layerwise"]),
    help="How the model is run (forward): whole, or one block in memory at a time.",
)
@click.option("--memory", metavar="4GB", help="What the writer may hold (1GB).")
@click.option("--resume", is_flag=True, help="Go on with a capture that was interrupted.")
@click.option("--append", is_flag=True, help="Add inputs, or sites and layers, to a store.")
@click.option(
    "--text-column",
    metavar="NAME",
    help="Column with the text, chat messages or images (text, else messages, else image).",
)
@click.option("--truncate", is_flag=True, help="Cut off texts longer than the model's context.")
@click.option("--window", type=int, metavar="N", help="Cut texts into examples of N tokens ...")
@click.option("--stride", type=int, metavar="M", help="... that start M tokens apart.")
@click.option(
    "--shard-rows", type=click.IntRange(min=1), metavar="R", help="Rows in a shard (8192)."
)
@click.option("--chunk-rows", type=click.IntRange(min=1), metavar="C", help="Rows in a chunk.")
@click.option("--codec", type=Codec, help="How chunks are stored (none).")
@click.option("--allow-nonfinite", is_flag=True, help="Keep NaN and infinite activations.")
@debug_option
def capture(model: str, inputs: Path, out: str, **options: Any) -> None:  # noqa: ANN401
    """Run MODEL over INPUT and keep what it did in RUN.

    MODEL is a folder or a name on the Hugging Face hub. INPUT is a .txt file (one input a line),
    .jsonl, .csv, .parquet or a folder of images. RUN is a folder, or s3://bucket/name.
    """
    import residuum
    from residuum.capture.place import Place
    from residuum.store.s3_path import store_path
    from residuum.store.show import count

    options["sites"] = options["sites"] or None
    if options["sites"] is None and not (options["resume"] or options["append"]):
        message = "Missing option '--site'."
        raise click.UsageError(message)
    place = Place.look(store_path(out), resume=options["resume"], append=options["append"])
    if options["resume"] and not place.existing:
        click.echo(f"{out}: nothing to resume yet, a new capture.", err=True)
    store = residuum.capture(model, inputs, out, **options)
    click.echo(
        f"{out}: {count(store.n_example, 'example')}, {count(len(store.sites), 'site')}. "
        f"Next: residuum info {_quoted(out)}",
        err=True,
    )


def _quoted(path: str) -> str:
    import shlex

    return shlex.quote(path)
