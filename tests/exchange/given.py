"""Arrays and tables that people could have."""

import ml_dtypes
import numpy as np
import pyarrow as pa

D, N_HEAD, D_HEAD = 6, 2, 3


def draw(*shape, dtype="float32", seed=0):
    values = np.random.default_rng(seed).standard_normal(shape)
    return values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def per_row(lengths=(3, 1, 4)):
    """A record per row: example, token, ids, texts, a label of rows and a topic of examples."""
    n = sum(lengths)
    example = np.repeat(np.arange(len(lengths)), lengths)
    return pa.table(
        {
            "example": example,
            "token": np.concatenate([np.arange(length) for length in lengths]),
            "token_id": np.arange(n) * 7 % 5,
            "text": [f" w{i}" for i in range(n)],
            "label": [i % 3 for i in range(n)],
            "topic": [f"topic {e}" for e in example],
        }
    )
