"""Edits: what a patch does to numbers, once donors, means and rows are looked up.

An executor knows these few; every kind of patch is one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.sites import Site

if TYPE_CHECKING:
    from numpy.typing import NDArray

ORDER = (
    Site.RESID_PRE,
    Site.Q,
    Site.K,
    Site.V,
    Site.PATTERN,
    Site.Z,
    Site.ATTN_OUT,
    Site.RESID_MID,
    Site.MLP_OUT,
    Site.RESID_POST,
)
"""Where edits can be made, in the order in which a block passes them."""


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of one site, at some tokens of one example: `x -> scale * x + shift`, and more.

    Attributes:
        site: one of `ORDER`.
        layer: of which block.
        tokens: int64 `[token]`, positions in the example, ascending.
        heads: int64 `[head]`, of sites with heads; None is all of them.
        scale: 0 forgets what was there, NaN included.
        shift: `[token, d_model]`, `[token, head, d_head]` or `[token, head, key]`, or None.
        off: `[direction, d]`, orthonormal: what lies along them is taken out.
        turn: int64 `[token]`, steps by which keys are rotated further (site k, rotary models).
        cached: the store's own values for these very rows are put there, so that nothing changes
            here, whatever came before. Without a shift they are read where they are needed.
    """

    site: Site
    layer: int
    tokens: NDArray[np.int64]
    heads: NDArray[np.int64] | None = None
    scale: float = 0.0
    shift: NDArray[Any] | None = None
    off: NDArray[Any] | None = None
    turn: NDArray[np.int64] | None = None
    cached: bool = False

    @property
    def n_bytes(self) -> int:
        """What its numbers take, about."""
        return 256 + (0 if self.shift is None else self.shift.nbytes)

    @property
    def is_identity(self) -> bool:
        """Whether it leaves everything as it is, whatever that is."""
        still = self.turn is None or not self.turn.any()
        adds = self.shift is not None and self.shift.any()
        return self.scale == 1.0 and self.off is None and still and not adds and not self.cached

    @property
    def overwrites(self) -> bool:
        """Whether nothing of what was there counts any more."""
        return self.scale == 0.0 and self.off is None and self.turn is None and self.heads is None


def changing(edit: Edit, there: NDArray[Any]) -> Edit | None:
    """The part of an edit that puts something else in place of what is there; None if none does."""
    shift = np.asarray(edit.shift)
    differs = (shift != there).reshape(len(shift), -1).any(1)
    if not differs.any():
        return None
    return replace(edit, tokens=edit.tokens[differs], shift=shift[differs])
