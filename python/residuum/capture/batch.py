"""A batch: some examples padded on the right to one length, ready for a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from residuum.errors import InputError


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right.

    Exactly one of `input_ids` and `pixel_values` is given.

    Attributes:
        lengths: number of tokens of each example, as `[example]`; padding is what lies beyond.
        input_ids: int64 `[example, token]`.
        pixel_values: float `[example, channel, height, width]`.
        token_type_ids: int64 `[example, token]`, for encoders that tell two segments apart.
    """

    lengths: tuple[int, ...]
    input_ids: torch.Tensor | None = None
    pixel_values: torch.Tensor | None = None
    token_type_ids: torch.Tensor | None = None

    def __post_init__(self) -> None:
        """Check that there is one kind of input and a length for each example."""
        given = [x for x in (self.input_ids, self.pixel_values) if x is not None]
        if len(given) != 1:
            message = "a batch holds either input_ids or pixel_values"
            raise InputError(message)
        if len(given[0]) != len(self.lengths):
            message = (
                f"axis `example` is {len(given[0])} in the batch's input but {len(self.lengths)} "
                "in its lengths"
            )
            raise InputError(message)

    @property
    def n_token(self) -> int:
        """Length of the longest example, which is the length of the token axis."""
        return max(self.lengths)

    @property
    def attention_mask(self) -> torch.Tensor:
        """1 for a token, 0 for padding; int64 `[example, token]`."""
        lengths = torch.tensor(self.lengths)
        return (torch.arange(self.n_token)[None, :] < lengths[:, None]).long()

    @classmethod
    def text(
        cls,
        examples: Sequence[Sequence[int]],
        *,
        pad_id: int,
        token_types: Sequence[Sequence[int]] | None = None,
    ) -> "Batch":
        """Pad token ids on the right.

        Args:
            examples: the token ids of each example; none may be empty.
            pad_id: id to fill with.
            token_types: segment of each token, in the shape of `examples`.

        Raises:
            InputError: an example is empty, or token types do not fit the ids.
        """
        lengths = tuple(len(ids) for ids in examples)
        if not lengths or min(lengths) == 0:
            message = "a batch needs at least one example, and each at least one token"
            raise InputError(message)
        types = None
        if token_types is not None:
            if tuple(len(ids) for ids in token_types) != lengths:
                message = "token_types must have one entry for each token"
                raise InputError(message)
            types = _pad(token_types, 0)
        return cls(lengths, input_ids=_pad(examples, pad_id), token_type_ids=types)


def _pad(examples: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    out = torch.full((len(examples), max(map(len, examples))), value, dtype=torch.long)
    for i, ids in enumerate(examples):
        out[i, : len(ids)] = torch.as_tensor(ids, dtype=torch.long)
    return out
