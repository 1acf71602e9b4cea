"""Stores and other people's files: `residuum.export` and `residuum.import_activations`.

store ──exporting.py──▶ npy · safetensors · dataset · store
npy · safetensors · torch.save ──importing.py──▶ store
"""

from residuum.exchange.exporting import export
from residuum.exchange.importing import import_activations, import_files

__all__ = ["export", "import_activations", "import_files"]
