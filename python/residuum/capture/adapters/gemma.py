"""Gemma: as Llama, but the norm's gain is one plus its weight, and the embedding is scaled."""

from dataclasses import replace

from residuum.capture.adapters.base import Adapter
from residuum.capture.adapters.llama import LLAMA

GEMMA: Adapter = replace(
    LLAMA,
    family="gemma",
    model_types={"gemma": "GemmaModel"},
    models={"GemmaForCausalLM": "model", "GemmaModel": ""},
    heads=frozenset({"GemmaForCausalLM"}),
    norm_offset=1.0,
)
