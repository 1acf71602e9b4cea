"""Adapters: one small file per model family that says where its sites are.

`adapter_for` picks one by the model's class. `base.py` explains how to add a family.
"""

from residuum.capture.adapters.base import Adapter, Difference, Dims, Tap
from residuum.capture.adapters.bert import BERT
from residuum.capture.adapters.clip import CLIP_TEXT, CLIP_VISION
from residuum.capture.adapters.gemma import GEMMA
from residuum.capture.adapters.gemma2 import GEMMA2
from residuum.capture.adapters.gpt2 import GPT2
from residuum.capture.adapters.gpt_neox import GPT_NEOX
from residuum.capture.adapters.gptj import GPTJ
from residuum.capture.adapters.llama import LLAMA
from residuum.capture.adapters.opt import OPT
from residuum.capture.adapters.phi import PHI
from residuum.errors import ModelError

__all__ = ["ADAPTERS", "Adapter", "Difference", "Dims", "Tap", "adapter_for", "architecture_error"]

ADAPTERS: tuple[Adapter, ...] = (
    GPT2,
    GPT_NEOX,
    GPTJ,
    LLAMA,
    GEMMA,
    GEMMA2,
    OPT,
    PHI,
    BERT,
    CLIP_TEXT,
    CLIP_VISION,
)


def adapter_for(architecture: str, kind: str = "text") -> Adapter:
    """Return the adapter of a model class.

    Args:
        architecture: name of the model class, such as "GPT2LMHeadModel".
        kind: what the input is, "text" or "image"; it decides the tower of a two-tower model.

    Raises:
        ModelError: no adapter knows the class, or the class does not read that kind of input.
    """
    known = [adapter for adapter in ADAPTERS if architecture in adapter.models]
    if not known:
        raise architecture_error(architecture)
    for adapter in known:
        if adapter.kind == kind:
            return adapter
    wanted = " or ".join(sorted({adapter.kind for adapter in known}))
    message = f"{architecture} reads {wanted} input, but the input given is {kind}"
    raise ModelError(message)


def architecture_error(architecture: str) -> ModelError:
    """Return the error for a model class without adapter: which exist, and how to add one."""
    listed = "; ".join(f"{adapter.family} ({', '.join(adapter.models)})" for adapter in ADAPTERS)
    message = (
        f"there is no adapter for the architecture {architecture}. Adapters exist for {listed}. An "
        "adapter is one declarative file that says where a family's sites are: see "
        "residuum/capture/adapters/base.py for how to add one"
    )
    return ModelError(message)
