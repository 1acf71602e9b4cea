"""What an import reads: arrays by site and layer, from memory or from files.

npy · safetensors · torch.save · a folder that `residuum export` made ──▶ Part, Part, …
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import InputError, SiteError
from residuum.exchange import torch_files
from residuum.exchange.job import MANIFEST, RECORDS
from residuum.sites import RowSpace, Site
from residuum.store.plan import DTYPES
from residuum.store.tensor_file import read_header

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

FLOATS = ("float64", *DTYPES)
_NAME = re.compile(r"([a-z_]+)(?:\.(\d+))?")


@dataclass(frozen=True)
class Part:
    """An array of one site.

    Attributes:
        layer: its layer; None for a site without layers, or where the array has an axis of them.
        array: in memory or mapped.
        what: the file, and the tensor in it, for messages.
        mapped: whether the array is a map of a file that was opened here, which nobody else has.
        layers: the layers along that axis, where they are known.
    """

    site: Site
    layer: int | None
    array: NDArray[Any]
    what: str
    mapped: bool
    layers: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Opened:
    """Everything that files gave: parts, and what a folder of an export says beside them."""

    parts: list[Part]
    table: Path | None = None
    n_layer: int | None = None
    model_name: str | None = None


def of_arrays(arrays: Mapping[Any, Any], tensor: str | None = None) -> list[Part]:
    """Parts from `{site: array or path}` or `{site: {layer: array or path}}`.

    Raises:
        SiteError: a site that does not exist.
        InputError: a file that cannot be read, or without the tensor that is meant.
    """
    parts: list[Part] = []
    for name, given in arrays.items():
        site = Site.parse(name)
        layered = given if isinstance(given, dict) else {None: given}
        for layer, one in layered.items():
            if layer is not None and not isinstance(layer, int | np.integer):
                message = f"{site.value} has an array under {layer!r}: layers are whole numbers."
                raise InputError(message)
            place = site.value if layer is None else f"{site.value} of layer {layer}"
            parts.extend(
                _of_site(site, layer if layer is None else int(layer), _tensors(one, place), tensor)
            )
    return parts


def of_files(
    paths: Sequence[Path], sites: Sequence[str], layers: Sequence[int], tensor: str | None
) -> Opened:
    """Parts from files: their sites and layers in the same order, or as their names say.

    Raises:
        SiteError: a site that does not exist.
        InputError: a file that cannot be read, or of which the site is not known; sites or layers
            that are not as many as the files.
    """
    if len(paths) == 1 and paths[0].is_dir():
        return _of_export(paths[0])
    for what, given in (("--site", sites), ("--layer", layers)):
        if len(given) > 1 and len(given) != len(paths):
            message = f"{len(given)} of {what} for {len(paths)} files: give one, or one for each."
            raise InputError(message)
    parts: list[Part] = []
    for number, path in enumerate(paths):
        layer = (layers[number] if len(layers) > 1 else layers[0]) if layers else None
        name = (sites[number] if len(sites) > 1 else sites[0]) if sites else None
        tensors = _tensors(path)
        if name is not None:
            parts.extend(_of_site(Site.parse(name), layer, tensors, tensor))
        else:
            parts.extend(_of_names(path, layer, tensors))
    return Opened(parts)


def _of_site(
    site: Site, layer: int | None, tensors: dict[str, _Tensor], tensor: str | None
) -> list[Part]:
    """The tensor that is meant; without a layer all that are called `site.layer`."""
    if tensor is not None:
        if tensor not in tensors:
            _refuse_names(tensors, f"no tensor {tensor!r}")
        chosen = tensors[tensor]
        return [chosen.part(site, layer)]
    wanted = site.value if layer is None else f"{site.value}.{layer}"
    named = {_parse(name): one for name, one in tensors.items()}
    layered = [
        one.part(site, of_layer)
        for (of_site, of_layer), one in named.items()
        if of_site is site and of_layer is not None and layer is None
    ]
    if wanted in tensors or len(tensors) == 1:
        chosen = tensors[wanted] if wanted in tensors else next(iter(tensors.values()))
        return layered or [chosen.part(site, layer)]
    if not layered:
        _refuse_names(tensors, f"no tensor {wanted!r}")
    return layered


def _of_names(path: Path, layer: int | None, tensors: dict[str, _Tensor]) -> list[Part]:
    """Parts of a file without a site: what the tensors are called, or the file itself."""
    parts = []
    for name, one in tensors.items():
        site, of_layer = _parse(name or path.stem)
        if site is None:
            called = f"the tensor {name!r} of {path}" if name else str(path)
            message = (
                f"{called} does not say which site it is of: say --site (with --tensor for one of "
                "several tensors), or call it by site and layer, such as resid_post.5."
            )
            raise InputError(message)
        parts.append(one.part(site, layer if of_layer is None else of_layer))
    return parts


def _of_export(folder: Path) -> Opened:
    """What `residuum export` wrote as a folder of npy or safetensors."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        message = f"{folder} is a folder without {MANIFEST}: name the files in it."
        raise InputError(message)
    try:
        said = json.loads(manifest.read_text(encoding="utf-8"))
        form, arrays = said["format"], said["arrays"]
        model, records = said["model"], said["records"]
        n_layer, name = model["n_layer"], model["name"]
        files = [(site, one["file"], one["layers"]) for site, one in arrays.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{manifest} is damaged: {error!r}"
        raise InputError(message) from error
    if form not in ("npy", "safetensors"):
        message = f"{folder} is a {form}, which is not imported: export npy or safetensors."
        raise InputError(message)
    parts: list[Part] = []
    for site, file, layers in files:
        for part in of_arrays({site: folder / file}):
            axis = part.layer is None and layers is not None
            parts.append(replace(part, layers=tuple(layers)) if axis else part)
    space = RowSpace.TOKEN if RowSpace.TOKEN in records else RowSpace.EXAMPLE
    return Opened(parts, folder / RECORDS[space], n_layer, name)


@dataclass(frozen=True)
class _Tensor:
    array: NDArray[Any]
    what: str
    mapped: bool = False

    def part(self, site: Site, layer: int | None) -> Part:
        return Part(site, layer, self.array, self.what, self.mapped)


def _tensors(given: object, place: str = "") -> dict[str, _Tensor]:
    """The tensors of a file by name, or the array of a place itself under the name ""."""
    if isinstance(given, np.ndarray):
        return {"": _Tensor(given, f"the array of {place}")}
    if torch_files.is_tensor(given):
        what = f"the tensor of {place}"
        return {"": _Tensor(torch_files.to_numpy(given, what), what)}
    if not isinstance(given, str | Path):
        message = (
            f"activations are a {type(given).__name__}: give an array, a tensor, or the path of "
            "an .npy, .safetensors or .pt file."
        )
        raise InputError(message)
    path = Path(given)
    if not path.is_file():
        message = f"{path}: no such file to read activations from."
        raise InputError(message)
    return {
        name: _Tensor(array, f"{path} ({name})" if name else str(path), mapped=True)
        for name, array in _read(path).items()
    }


def _read(path: Path) -> dict[str, NDArray[Any]]:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return {"": _read_npy(path)}
    if suffix == ".safetensors":
        return {name: tensor.map(path) for name, tensor in read_header(path).items()}
    if suffix in torch_files.SUFFIXES:
        return torch_files.load(path)
    message = (
        f"{path}: activations are read from .npy, .safetensors and "
        f"{', '.join(torch_files.SUFFIXES)} files, not from {suffix or 'a file without suffix'}."
    )
    raise InputError(message)


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        # What numpy advises for objects is to run code of the file.
        why = "it holds Python objects, or is damaged" if "pickle" in str(error) else error
        message = f"{path} is no readable .npy file of numbers: {why}"
        raise InputError(message) from error
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        message = (
            f"{path} holds 2-byte values of no type that numpy names: bfloat16 is saved so. Save "
            "it as safetensors, which knows bfloat16, or as float32."
        )
        raise InputError(message)
    # A plain array over the same map: np.memmap's subclass survives arithmetic and surprises.
    return np.asarray(array)


def _parse(name: str) -> tuple[Site | None, int | None]:
    """(site, layer) of a name such as `z.5` or `embed`; (None, None) of any other."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None, None
    try:
        site = Site.parse(match[1])
    except SiteError:
        return None, None
    return site, None if match[2] is None else int(match[2])


def _refuse_names(tensors: dict[str, _Tensor], lacks: str) -> None:
    file = next(iter(tensors.values())).what.rpartition(" (")[0] if tensors else "the file"
    there = ", ".join(list(tensors)[:8]) or "nothing"
    message = f"{file} has {lacks}; it has {there}: choose one with --tensor (one file at a time)."
    raise InputError(message)
