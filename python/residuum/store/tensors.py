"""numpy arrays as torch tensors: the one place of the store that knows torch, if asked."""

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch  # noqa: TID251  for the type alone


def from_numpy(array: NDArray[Any]) -> "torch.Tensor":
    """Return a tensor over the array's own memory; `ml_dtypes.bfloat16` becomes `torch.bfloat16`.

    Raises:
        ImportError: torch is not installed.
    """
    import torch  # noqa: TID251  a store is asked without torch; only who wants a tensor needs it

    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
