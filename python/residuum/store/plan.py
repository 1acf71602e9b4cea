"""What a capture is going to store: one `ArrayPlan` per site."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from residuum._residuum import ArraySpec
from residuum.sites import Site

Dtype = Literal["float32", "float16", "bfloat16"]
Codec = Literal["none", "zstd"]
StoredDtype = Dtype | Literal["int8"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
CODECS: tuple[Codec, ...] = get_args(Codec)

DEFAULT_SHARD_ROWS = 8192

NEVER_INT8 = (Site.PATTERN, Site.ATTN_SCORES, Site.LOGITS, Site.NORM_SCALE, Site.IMAGE_V)
"""Sites without statistics, which hold an int8 site's scales; and what everything is divided by."""

MADE_BY_EXPORT = (
    "int8 is made of a store by export: keep 16 bits first, then "
    "`residuum export RUN -o SMALL --format store --dtype int8`."
)
"""What to say where a store cannot be int8."""


@dataclass(frozen=True)
class ArrayPlan:
    """One site's array.

    Attributes:
        site: the site.
        n_layer: length of the layer axis, the model's own; None for a site without one.
        layers: the layers that are captured, ascending.
        inner: lengths of the axes behind `layer`, such as `(n_head, d_head)`.
        dtype: type of the numbers on disk; int8 for sites with statistics alone, which hold its
            scales.
    """

    site: Site
    n_layer: int | None
    layers: Sequence[int]
    inner: Sequence[int]
    dtype: StoredDtype

    def spec(self, *, shard_rows: int, chunk_rows: int | None, codec: Codec) -> ArraySpec:
        """Return the core's description, with names and cut.

        Raises:
            ArgumentError: lengths that cannot be stored or do not fit the site's axes.
        """
        return ArraySpec.for_site(
            str(self.site),
            self.dtype,
            self.n_layer,
            list(self.layers),
            list(self.inner),
            shard_rows=shard_rows,
            chunk_rows=chunk_rows,
            codec=codec,
        )
