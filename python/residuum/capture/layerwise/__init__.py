"""The schedule `layerwise`: one block's weights in memory at a time, for models larger than memory.

    Checkpoint ──weights──▶ Shell (the model, on no device) ──▶ a stage at a time ──▶ StoreWriter
    (safetensors)                                                 ▲          │
                                                                  └─ Streams ┘  (staging/stream)

Stages follow each other as a pass does: the embedding, each block, the readout. All batches go
through a stage before the next one begins; the residual stream between them waits in a file. A
stage runs the model's own code with the same hooks as the schedule `forward`, so that the numbers
are the same. What a stage stored is committed before the next one begins.
"""

from residuum.capture.layerwise.run import go_on, grow, start
from residuum.capture.layerwise.shell import Shell

__all__ = ["Shell", "go_on", "grow", "start"]
