"""The weights of a model's blocks, out of its safetensors files, mapped and not copied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from residuum.errors import ModelError
from residuum.store import tensor_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from residuum.replay.architecture import Architecture


@dataclass(frozen=True)
class Linear:
    """`x @ w + b`: w `[in, out]`, a view of how it lies in the file; b `[out]` or None."""

    w: NDArray[Any]
    b: NDArray[Any] | None


@dataclass(frozen=True)
class Norm:
    """A norm's weight and bias, `[d_model]`; RMSNorm has no bias."""

    w: NDArray[Any]
    b: NDArray[Any] | None


@dataclass(frozen=True)
class Block:
    """The weights of one block.

    Attributes:
        norms: of attention and MLP; one where they share it.
        branch_norms: of what attention and MLP give, where a model has them.
        q: `[d_model, head * d_head]`; k, v with kv_head.
        out: W_O, `[head * d_head, d_model]`.
        mlp_in: into the activation; mlp_up: what its output is multiplied by, in gated MLPs.
    """

    norms: tuple[Norm, ...]
    branch_norms: tuple[Norm, ...]
    q: Linear
    k: Linear
    v: Linear
    out: Linear
    mlp_in: Linear
    mlp_up: Linear | None
    mlp_out: Linear


class Weights:
    """The blocks of a model, by layer."""

    def __init__(self, tensors: Mapping[str, Callable[[], NDArray[Any]]], of: Architecture) -> None:
        """Find the weights of `of`'s blocks among tensors by name, each read when asked for.

        Raises:
            ModelError: one is missing; the message names it.
        """
        self._tensors = tensors
        self._of = of
        self._prefix = _prefix(tensors, of)
        for layer in range(of.n_layer):
            self._at(layer, of.modules["out"], "weight")

    def block(self, layer: int) -> Block:
        """The weights of one block."""
        modules = self._of.modules
        made = Block(
            tuple(self._norm(layer, path) for path in modules["norms"]),
            tuple(self._norm(layer, path) for path in modules["branch_norms"]),
            self._projection(layer, modules["q"]),
            self._projection(layer, modules["k"]),
            self._projection(layer, modules["v"]),
            self._linear(layer, modules["out"]),
            self._linear(layer, modules["mlp_in"]),
            None if modules["mlp_up"] is None else self._linear(layer, modules["mlp_up"]),
            self._linear(layer, modules["mlp_out"]),
        )
        _check(made, self._of, layer)
        return made

    def _at(self, layer: int, module: str, name: str) -> NDArray[Any]:
        key = f"{self._prefix.format(layer=layer)}.{module}.{name}"
        if key not in self._tensors:
            message = (
                f"the model's files hold no tensor {key}: they are not those of the captured model"
            )
            raise ModelError(message)
        return self._tensors[key]()

    def _bias(self, layer: int, module: str) -> NDArray[Any] | None:
        key = f"{self._prefix.format(layer=layer)}.{module}.bias"
        return self._tensors[key]() if key in self._tensors else None

    def _norm(self, layer: int, module: str) -> Norm:
        return Norm(self._at(layer, module, "weight"), self._bias(layer, module))

    def _linear(self, layer: int, module: str) -> Linear:
        w = self._at(layer, module, "weight")
        return Linear(w if self._of.modules["transposed"] else w.T, self._bias(layer, module))

    def _projection(self, layer: int, tap: Mapping[str, Any]) -> Linear:
        whole = self._linear(layer, tap["module"])
        if tap["part"] is None:
            return whole
        part = _part(tap, self._of.d_head)
        return Linear(part(whole.w), None if whole.b is None else part(whole.b))


def _check(block: Block, of: Architecture, layer: int) -> None:
    """Refuse matrices that are not as large as the captured model's."""
    heads, keys = of.n_head * of.d_head, of.n_kv_head * of.d_head
    shapes = {
        "q": (of.d_model, heads),
        "k": (of.d_model, keys),
        "v": (of.d_model, keys),
        "out": (heads, of.d_model),
        "mlp_in": (of.d_model, of.d_mlp),
        "mlp_up": (of.d_model, of.d_mlp),
        "mlp_out": (of.d_mlp, of.d_model),
    }
    for name, shape in shapes.items():
        linear: Linear | None = getattr(block, name)
        if linear is not None and linear.w.shape != shape:
            message = (
                f"{name} of layer {layer} is {list(linear.w.shape)} in the model's files, but "
                f"{list(shape)} in the captured model: these are another model's"
            )
            raise ModelError(message)


def _part(tap: Mapping[str, Any], d_head: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """The q, k or v columns of a fused projection, `[…, head * d_head]`."""
    number = tap["part"]
    if tap["fused"] == "heads":  # [q | k | v] for each head in turn

        def by_heads(whole: NDArray[Any]) -> NDArray[Any]:
            by = whole.reshape(*whole.shape[:-1], -1, 3, d_head)
            return by[..., number, :].reshape(*whole.shape[:-1], -1)

        return by_heads
    return lambda whole: whole[
        ..., slice(*(n * whole.shape[-1] // 3 for n in (number, number + 1)))
    ]


def _prefix(tensors: Mapping[str, Any], of: Architecture) -> str:
    """The path of a block as these names have it: files may leave out or add what is around it."""
    path = of.modules["path"]
    first = path.format(layer=0)
    tail = f".{of.modules['out']}.weight"
    found = {name.removesuffix(tail) for name in tensors if name.endswith(tail)}
    while True:
        near = {one for one in found if one == first or one.endswith(f".{first}")}
        if len(near) == 1:
            there = near.pop()
            # Only the number of the layer is left to fill in, which is the path's last part.
            return f"{there.rpartition('.')[0]}.{{layer}}" if "." in there else "{layer}"
        if near or "." not in first.partition(".")[2]:
            message = (
                f"the model's files hold no tensor {path.format(layer=0)}{tail}: they are not "
                "those of the captured model"
            )
            raise ModelError(message)
        first = first.partition(".")[2]


def tensors_of(folder: Path) -> dict[str, Callable[[], NDArray[Any]]]:
    """The tensors of a folder's safetensors files by name, mapped when asked for.

    Raises:
        ModelError: there are no such files.
        StoreError: one is damaged.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        message = f"the model folder {folder} holds no safetensors files"
        raise ModelError(message)
    found: dict[str, Callable[[], NDArray[Any]]] = {}
    for path in files:
        for name, tensor in tensor_file.read_header(path).items():
            found[name] = _mapped(path, tensor)
    return found


def _mapped(path: Path, tensor: tensor_file.Tensor) -> Callable[[], NDArray[Any]]:
    return lambda: tensor.map(path)
