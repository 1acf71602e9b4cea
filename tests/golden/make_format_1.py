"""Made `format_1.residuum` and `format_1.npz`, once; kept to say how, never run again.

A store of each dtype and codec would be more of the same: bfloat16 in residuum's own cut is what
other tools find hardest. The file of expected values holds the bits.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from store import made

FOLDER = Path(__file__).parent


def main() -> None:
    """Write the store and what is in it beside this file."""
    done = made.write(FOLDER / "format_1.residuum", "bfloat16", "zstd", seed=11)
    expected = {f"activations/{name}": a.view(np.uint16) for name, a in done.arrays.items()}
    expected |= {f"weights/{name}": array for name, array in done.weights.items()}
    expected["index/target"] = made.target(done.ids)
    expected["token_id"] = done.ids
    np.savez_compressed(FOLDER / "format_1.npz", **expected)


if __name__ == "__main__":
    main()
