"""A model run to activations: `residuum.capture(model, inputs, out, sites=[...])`.

The package is called like the function, and importing it needs no torch: the function is found when
it is called.

    run.capture ──▶ inputs, model ──▶ job ──▶ session ──▶ store
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

_EXTRA = frozenset({"torch", "transformers", "PIL"})
"""What the extra `capture` installs."""


class _CallableModule(ModuleType):
    """So that `residuum.capture(...)` works also after `import residuum.capture.run`."""

    def __call__(self, *args: Any, **settings: Any) -> Any:  # noqa: ANN401 - as run.capture
        """Call `residuum.capture.run.capture`; see there.

        Raises:
            ModuleNotFoundError: what runs models is not installed.
        """
        try:
            from residuum.capture.run import capture
        except ModuleNotFoundError as error:
            if error.name not in _EXTRA:
                raise
            message = (
                f"capturing needs {error.name}, which is not installed: "
                "pip install 'residuum[capture]'."
            )
            raise ModuleNotFoundError(message, name=error.name) from error
        return capture(*args, **settings)


sys.modules[__name__].__class__ = _CallableModule
