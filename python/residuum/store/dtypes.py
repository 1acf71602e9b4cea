"""numpy's types by the names that stores use."""

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

BFLOAT16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)


def numpy_dtype(name: DTypeLike) -> np.dtype[Any]:
    """The type of that name; numpy itself has no bfloat16."""
    return BFLOAT16 if isinstance(name, str) and name == "bfloat16" else np.dtype(name)
