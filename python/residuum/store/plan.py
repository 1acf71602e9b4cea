"""What a capture is going to store: one `ArrayPlan` per site."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from residuum._residuum import ArraySpec
from residuum.sites import Site

Dtype = Literal["float32", "float16", "bfloat16"]
Codec = Literal["none", "zstd"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
CODECS: tuple[Codec, ...] = get_args(Codec)

DEFAULT_SHARD_ROWS = 8192


@dataclass(frozen=True)
class ArrayPlan:
    """One site's array.

    Attributes:
        site: the site.
        n_layer: length of the layer axis, the model's own; None for a site without one.
        layers: the layers that are captured, ascending.
        inner: lengths of the axes behind `layer`, such as `(n_head, d_head)`.
        dtype: type of the numbers on disk.
    """

    site: Site
    n_layer: int | None
    layers: Sequence[int]
    inner: Sequence[int]
    dtype: Dtype

    def spec(
        self, *, shard_rows: int, chunk_rows: int | None, codec: Codec, statistics: bool
    ) -> ArraySpec:
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
            statistics=statistics,
        )
