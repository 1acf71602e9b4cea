"""Stores and other people's files: `residuum.export` and `residuum.import_activations`.

store ──exporting.py──▶ npy · safetensors · dataset · store
npy · safetensors · torch.save ──importing.py──▶ store
"""

from residuum.exchange.exporting import export

__all__ = ["export"]
