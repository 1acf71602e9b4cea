"""Which tensor of a checkpoint goes where in a model: by transformers' own rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from residuum.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


def sources(model: Any, names: Iterable[str]) -> dict[str, str]:  # noqa: ANN401 - a PreTrainedModel
    """Return the checkpoint's tensor for each name in the model's `state_dict` that has one.

    Raises:
        ModelError: a weight that the library puts together from others while it loads.
    """
    state = model.state_dict()
    mapping = get_model_conversion_mapping(model)
    renamings = [rule for rule in mapping if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in mapping if isinstance(rule, WeightConverter)]
    prefix = model.base_model_prefix
    found: dict[str, str] = {}
    for name in names:
        key, pattern = rename_source_key(name, renamings, converters, prefix, state)
        if key not in state and name in state:
            key, pattern = rename_source_key(name, [], [], prefix, state)
        if key not in state:
            continue
        if pattern is not None:
            message = (
                f"the schedule layerwise cannot read {name} of a {type(model).__name__}: "
                f"transformers makes {key} of several tensors; use the schedule forward"
            )
            raise ModelError(message)
        found[key] = name
    return found
