"""A batch's pass through one stage: the model's own code, of which one block computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from residuum.capture.tracer import Pass, model_dtype
from residuum.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from residuum.capture.batch import Batch
    from residuum.capture.layerwise.shell import Shell
    from residuum.capture.layerwise.stages import Stage
    from residuum.capture.layerwise.streams import Crossing
    from residuum.capture.tracer import Sink, Tracer


class StageTracer:
    """Runs batches through one stage, as `Tracer` runs them through the model."""

    def __init__(self, tracer: Tracer, shell: Shell, stage: Stage, crossing: Crossing) -> None:
        """Read `stage.wanted`; blocks other than the stage's hand on what they are given."""
        self.tracer = tracer.part(stage.wanted.layers)
        self.shell = shell
        self.stage = stage
        self.crossing = crossing

    def collate(self, examples: Sequence[Any]) -> Batch:
        """Make a batch of examples, as `Tracer.collate` does."""
        return self.tracer.collate(examples)

    def run(self, batch: Batch, sink: Sink) -> None:
        """Take a batch through the stage; call `sink` once per site and layer of the stage.

        Raises:
            CaptureError: the model did not pass a site that it should have.
        """
        _StagePass(self, batch, sink).run()


class _StagePass(Pass):
    """A pass in which the stream enters from a file in front of the stage and leaves behind it."""

    def __init__(self, tracer: StageTracer, batch: Batch, sink: Sink) -> None:
        super().__init__(tracer.tracer, batch, sink)
        self.stage = tracer.stage
        self.crossing = tracer.crossing
        self.device = tracer.shell.device

    def watch(self) -> None:
        """Install the hooks: the stream enters before anything is read of it."""
        hand_on = _hand_on_first if self.adapter.block_returns_tuple else _hand_on
        for number, block in enumerate(self.blocks):
            if number != self.stage.layer:
                block.forward = hand_on
                self.hooks.callback(block.__dict__.pop, "forward", None)
        if self.stage.enters is not None:
            self.enter(self.entering())
        super().watch()
        if self.crossing.leaves is not None:
            self.due.add((None, None))
            first = self.stage.number == 0
            block = self.blocks[0 if first else self.stage.number - 1]
            self.listen(block, "input" if first else "output", self.leave)

    def entering(self) -> torch.Tensor:
        """The batch's stream, `[example, token, d_model]`."""
        shape = (len(self.batch.lengths), self.batch.n_token, self.tracer.dims.d_model)
        entering = self.crossing.read(torch.Size(shape), model_dtype(self.model))
        return entering.to(self.device)

    def enter(self, stream: torch.Tensor) -> None:
        """Give the stage's block, or the readout, the stream instead of what came to it."""

        def before(
            _module: object, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if args:
                return (stream, *args[1:]), kwargs
            return args, kwargs | {"hidden_states": stream}

        def after(_module: object, _args: object, _output: object) -> Any:  # noqa: ANN401
            return (stream,) if self.adapter.block_returns_tuple else stream

        if self.stage.layer is not None:
            block = self.blocks[self.stage.layer]
            handle = block.register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = self.blocks[-1].register_forward_hook(after)
        self.hooks.callback(handle.remove)

    def leave(self, stream: torch.Tensor) -> None:
        """Hand the stream on to the next stage."""
        if stream.dtype != model_dtype(self.model):
            message = (
                f"the residual stream of a {type(self.model).__name__} is {stream.dtype}, not "
                f"{model_dtype(self.model)}: use the schedule forward"
            )
            raise CaptureError(message)
        self.crossing.write(stream)
        self.settle(None, None)


def _hand_on(hidden_states: torch.Tensor, *_args: object, **_kwargs: object) -> torch.Tensor:
    """What a block of another stage does."""
    return hidden_states


def _hand_on_first(
    hidden_states: torch.Tensor, *_args: object, **_kwargs: object
) -> tuple[torch.Tensor]:
    """The same where blocks return the stream as the first of several things."""
    return (hidden_states,)
