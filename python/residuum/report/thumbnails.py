"""Small pictures of examples as `<img>` elements, from the table `pictures` of a result."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from residuum.report.png import address

if TYPE_CHECKING:
    import pyarrow as pa

COARSE = 64  # pictures with fewer pixels across are enlarged without blur


class Thumbnails:
    """The pictures that there are, by the number of their example."""

    def __init__(self, table: pa.Table) -> None:
        """Columns `example`, `width` and `png`."""
        columns = (table[name].to_pylist() for name in ("example", "width", "png"))
        self._of = {example: (width, file) for example, width, file in zip(*columns, strict=True)}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._of)

    def __contains__(self, example: object) -> bool:
        """Whether there is one of that example."""
        return example in self._of

    def image(self, example: int, says: str) -> str:
        """The picture, described to those who cannot see it; its number where there is none.

        The description shows up under the pointer too. No description is for a picture that
        another one lies upon, which has it.
        """
        words = html.escape(says)
        if example not in self:
            return f'<span class="picture" title="{words}">image {example}</span>'
        width, file = self._of[example]
        kind = "picture coarse" if width < COARSE else "picture"
        title = f' title="{words}"' if words else ""
        return f'<img class="{kind}" loading="lazy" alt="{words}"{title} src="{address(file)}">'
