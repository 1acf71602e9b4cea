"""`bfloat16` for stock `zarr`, found through entry points.

With residuum installed, `zarr.open_group("run.residuum")` reads bfloat16 sites as numpy arrays of
`ml_dtypes.bfloat16`; nothing has to be imported. The name on disk is `"bfloat16"`, the one that the
Zarr extension registry and tensorstore use.

The right entry point group is `zarr.data_type`, but zarr 3.1 only collects that group and never
loads it. So this module is listed in the group `zarr.buffer` too, which zarr loads before it reads
a group; loading registers the type. `zarr.open_array` on a single array loads neither: import this
module first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeGuard, cast

import ml_dtypes
import numpy as np
from zarr.core.common import JSON, ZarrFormat
from zarr.core.dtype import ZDType, data_type_registry
from zarr.core.dtype.common import (
    DataTypeValidationError,
    DTypeJSON,
    HasEndianness,
    HasItemSize,
)
from zarr.core.dtype.wrapper import TBaseDType

_NATIVE: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
_SPECIAL: Mapping[str, float] = {
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "-Infinity": float("-inf"),
}


@dataclass(frozen=True, kw_only=True)
class BFloat16(ZDType[Any, Any], HasEndianness, HasItemSize):
    """The upper half of a float32, little-endian: 8 bits of exponent, 7 of mantissa."""

    dtype_cls: ClassVar[Any] = type(_NATIVE)
    _zarr_v3_name: ClassVar[Literal["bfloat16"]] = "bfloat16"

    @property
    def item_size(self) -> int:
        """Bytes in one value: 2."""
        return 2

    @classmethod
    def _check_native_dtype(cls, dtype: TBaseDType) -> TypeGuard[TBaseDType]:
        # ml_dtypes' types share numpy's void class, so that only equality tells them apart.
        return bool(dtype == _NATIVE)

    @classmethod
    def from_native_dtype(cls, dtype: TBaseDType) -> Self:
        """Return the Zarr type of numpy's `bfloat16`.

        Raises:
            DataTypeValidationError: `dtype` is another one.
        """
        if cls._check_native_dtype(dtype):
            return cls()
        message = f"{dtype} is not bfloat16"
        raise DataTypeValidationError(message)

    def to_native_dtype(self) -> np.dtype[Any]:
        """Return `ml_dtypes.bfloat16` as a numpy dtype; ml_dtypes has it in native order only."""
        return _NATIVE

    @classmethod
    def _from_json_v2(cls, data: DTypeJSON) -> Self:
        message = f"{data!r}: Zarr format 2 has no bfloat16"
        raise DataTypeValidationError(message)

    @classmethod
    def _from_json_v3(cls, data: DTypeJSON) -> Self:
        if data == cls._zarr_v3_name:
            return cls()
        message = f"{data!r} is not {cls._zarr_v3_name!r}"
        raise DataTypeValidationError(message)

    def to_json(self, zarr_format: ZarrFormat) -> Any:  # noqa: ANN401  the base's overloads
        """Return the name on disk.

        Raises:
            ValueError: Zarr format 2, which has no bfloat16.
        """
        if zarr_format == 3:
            return self._zarr_v3_name
        message = "Zarr format 2 has no bfloat16"
        raise ValueError(message)

    def _check_scalar(self, data: object) -> bool:
        return isinstance(data, int | float | np.number | ml_dtypes.bfloat16)

    def cast_scalar(self, data: object) -> Any:  # noqa: ANN401  a numpy scalar without a type
        """Return a number as bfloat16.

        Raises:
            TypeError: `data` is not a number.
        """
        if not self._check_scalar(data):
            message = f"{data!r} is not a number, so it cannot be a bfloat16"
            raise TypeError(message)
        return _NATIVE.type(cast("float", data))

    def default_scalar(self) -> Any:  # noqa: ANN401  a numpy scalar without a type
        """Return zero."""
        return _NATIVE.type(0)

    def from_json_scalar(self, data: JSON, *, zarr_format: ZarrFormat) -> Any:  # noqa: ANN401, ARG002
        """Read a fill value: a number, `"NaN"`, `"Infinity"`, `"-Infinity"` or `"0x7fc0"`.

        Raises:
            TypeError: anything else.
        """
        if isinstance(data, str):
            if data in _SPECIAL:
                return _NATIVE.type(_SPECIAL[data])
            if data.startswith("0x"):
                return np.array(int(data, 16), np.uint16).view(_NATIVE)[()]
        elif isinstance(data, int | float):
            return _NATIVE.type(data)
        message = f"{data!r} is not a fill value of bfloat16"
        raise TypeError(message)

    def to_json_scalar(self, data: object, *, zarr_format: ZarrFormat) -> JSON:  # noqa: ARG002
        """Write a fill value."""
        value = float(self.cast_scalar(data))
        if np.isnan(value):
            return "NaN"
        if np.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return value


data_type_registry.register(BFloat16._zarr_v3_name, BFloat16)
