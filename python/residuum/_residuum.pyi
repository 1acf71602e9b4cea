"""Types of the compiled module."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ArraySpec",
    "ChunkView",
    "Norm",
    "ReplayAttention",
    "SiteArray",
    "Store",
    "Writer",
    "__version__",
    "attribution",
    "image_patch_maps",
    "kmeans",
    "knn",
    "lens",
    "lens_gradients",
    "lens_judge",
    "matmul",
    "moments",
    "object_create",
    "object_length",
    "object_list",
    "object_read",
    "object_remove",
    "object_upload",
    "pca",
    "replay_gather",
    "replay_linear",
    "replay_rotate",
    "site_head_moments",
    "site_kmeans",
    "site_knn",
    "site_moments",
    "subset_scores",
    "textspan",
    "verify",
]
__version__: str

@final
class ArraySpec:
    @staticmethod
    def for_site(
        site: str,
        dtype: str,
        n_layer: int | None,
        layers: Sequence[int],
        inner: Sequence[int],
        *,
        shard_rows: int,
        chunk_rows: int | None,
        codec: str,
    ) -> ArraySpec: ...
    @staticmethod
    def for_target(*, shard_rows: int, codec: str) -> ArraySpec: ...

@final
class Store:
    def __new__(cls, path: os.PathLike[str]) -> Store: ...
    @property
    def attributes(self) -> dict[str, Any]: ...
    @property
    def commit(self) -> dict[str, Any]: ...
    @property
    def sites(self) -> list[str]: ...
    def site(self, name: str) -> SiteArray: ...
    def target(self) -> SiteArray | None: ...
    def statistics(self, site: str, layer: int) -> dict[str, Any] | None: ...
    def is_current(self) -> bool: ...
    def counters(self) -> dict[str, int]: ...

@final
class SiteArray:
    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> list[int]: ...
    @property
    def axes(self) -> list[str]: ...
    @property
    def layers(self) -> list[int]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def errors(self) -> list[tuple[float, float, float]]: ...
    @property
    def row_space(self) -> str: ...
    @property
    def chunk_rows(self) -> int: ...
    @property
    def shard_rows(self) -> int: ...
    def view(self, chunk: int, layer: int) -> ChunkView: ...
    def read_rows(self, out: NDArray[Any], rows: NDArray[np.int64], layer: int) -> bool: ...
    def read_into(
        self,
        out: NDArray[np.float32] | NDArray[np.uint16] | NDArray[np.int32],
        rows: tuple[int, int] | NDArray[np.uint64] | None,
        layers: Sequence[int],
        heads: Sequence[int] | None,
        verify: bool = False,
    ) -> None: ...
    @property
    def codec(self) -> str: ...
    @property
    def reads_rows_alone(self) -> bool: ...
    def warm(self, chunks: Sequence[int], layers: Sequence[int]) -> None: ...

@final
class ChunkView:
    @property
    def n_row(self) -> int: ...
    def bytes(self) -> NDArray[np.uint8]: ...
    def check(self) -> None: ...

@final
class Writer:
    @staticmethod
    def create(
        path: Path, arrays: Sequence[ArraySpec], *, memory_bytes: int, threads: int
    ) -> Writer: ...
    @staticmethod
    def open(path: os.PathLike[str], *, memory_bytes: int, threads: int) -> Writer: ...
    @staticmethod
    def grow(
        path: os.PathLike[str],
        arrays: Sequence[ArraySpec],
        *,
        resume: dict[str, Any],
        memory_bytes: int,
        threads: int,
    ) -> Writer: ...
    @staticmethod
    def upload(folder: Path, path: os.PathLike[str]) -> None: ...
    @property
    def arrays(self) -> list[str]: ...
    @property
    def last_commit(self) -> dict[str, Any]: ...
    def write(
        self,
        array: int,
        layer: int,
        values: NDArray[Any],
        row_len: int,
        runs: NDArray[np.int64],
        *,
        half: bool,
    ) -> None: ...
    def sealed_rows(self, row_space: str) -> int: ...
    def check_lock(self) -> None: ...
    def flush(self) -> None: ...
    def commit(
        self,
        *,
        token_rows: int,
        example_rows: int,
        n_example: int,
        tables: dict[str, list[str]],
        complete: bool,
        publish_tail: bool,
        interrupted: bool,
        resume: dict[str, Any],
    ) -> dict[str, Any]: ...
    def abandon(self, *, resume: dict[str, Any]) -> dict[str, Any]: ...
    def nonfinite(self) -> list[tuple[str, int | None, int, int]]: ...
    def close(self) -> None: ...

def verify(path: os.PathLike[str]) -> dict[str, Any]: ...
def object_create(data: bytes, url: os.PathLike[str]) -> bool: ...
def object_length(url: os.PathLike[str]) -> int | None: ...
def object_list(url: os.PathLike[str]) -> list[tuple[str, int, str]]: ...
def object_read(url: os.PathLike[str], part: tuple[int, int] | None = None) -> bytes: ...
def object_remove(url: os.PathLike[str]) -> None: ...
def object_upload(file: Path, url: os.PathLike[str]) -> None: ...

@final
class Norm:
    def __new__(
        cls,
        kind: str,
        *,
        eps: float,
        offset: float,
        weight: NDArray[np.float32] | None,
        bias: NDArray[np.float32] | None,
    ) -> Norm: ...
    def apply(self, x: NDArray[np.float32], out: NDArray[np.float32]) -> None: ...
    def scale(self, x: NDArray[np.float32]) -> NDArray[np.float32]: ...
    def fold(
        self, directions: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...

@final
class ReplayAttention:
    def __new__(
        cls,
        heads: tuple[int, int, int],
        *,
        scaling: float,
        softcap: float | None,
        window: int | None,
        causal: bool,
        run: NDArray[np.uint32],
        token: NDArray[np.uint32],
        example: NDArray[np.uint32],
        start: NDArray[np.uint32],
        own: NDArray[np.uint32],
        n_token: int,
    ) -> ReplayAttention: ...
    def attend(
        self,
        q: NDArray[np.float32],
        cached: tuple[NDArray[np.float32], NDArray[np.float32]],
        own: tuple[NDArray[np.float32], NDArray[np.float32]],
        out: NDArray[np.float32],
    ) -> None: ...
    def pattern(
        self,
        q: NDArray[np.float32],
        cached: tuple[NDArray[np.float32], NDArray[np.float32]],
        own: tuple[NDArray[np.float32], NDArray[np.float32]],
        out: NDArray[np.float32],
    ) -> None: ...
    def mix(
        self,
        pattern: NDArray[np.float32],
        cached: tuple[NDArray[np.float32], NDArray[np.float32]],
        own: tuple[NDArray[np.float32], NDArray[np.float32]],
        out: NDArray[np.float32],
    ) -> None: ...

def replay_gather(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    index: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None: ...
def replay_linear(
    x: NDArray[np.float32],
    w: NDArray[np.float32] | NDArray[np.uint16],
    b: NDArray[np.float32] | None,
    out: NDArray[np.float32],
    *,
    transposed: bool,
    brain: bool,
    then: str | None,
) -> None: ...
def replay_rotate(
    x: NDArray[np.float32],
    position: NDArray[np.int64],
    inv_freq: NDArray[np.float32],
    *,
    scaling: float,
    interleaved: bool,
) -> None: ...
def lens(
    x: NDArray[np.float32],
    w_u: NDArray[np.float32],
    *,
    transposed: bool,
    bias: NDArray[np.float32] | None,
    reference: NDArray[np.float32] | None,
    targets: NDArray[np.int32] | None,
    k: int,
    logit_scale: float,
    softcap: float | None,
) -> dict[str, Any]: ...
def lens_gradients(
    x: NDArray[np.float32],
    w_u: NDArray[np.float32],
    loss: NDArray[np.float32],
    gradient: NDArray[np.float32],
    *,
    transposed: bool,
    bias: NDArray[np.float32] | None,
    reference: NDArray[np.float32] | None,
    targets: NDArray[np.int32] | None,
    logit_scale: float,
    softcap: float | None,
) -> None: ...
def lens_judge(
    x: NDArray[np.float32],
    w_u: NDArray[np.float32],
    reference: NDArray[np.float32],
    kl: NDArray[np.float32],
    entropy: NDArray[np.float32],
    top: NDArray[np.uint32],
    target_logprob: NDArray[np.float32],
    marginal: NDArray[np.float64],
    *,
    transposed: bool,
    bias: NDArray[np.float32] | None,
    targets: NDArray[np.int32] | None,
    logit_scale: float,
    softcap: float | None,
) -> None: ...
def attribution(
    z: NDArray[np.float32],
    w_o: NDArray[np.float32],
    directions: NDArray[np.float32],
    scale: NDArray[np.float32] | None,
    out: NDArray[np.float32],
) -> None: ...
def textspan(
    texts: NDArray[np.float32], covariance: NDArray[np.float64], n_pick: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], float]: ...
def image_patch_maps(
    pattern: NDArray[np.float32],
    v: NDArray[np.float32],
    readout: NDArray[np.float32],
    scale: NDArray[np.float32] | None,
    out: NDArray[np.float32],
) -> None: ...
def site_head_moments(
    site: SiteArray,
    layer: int,
    rows: NDArray[np.uint64],
    scale: NDArray[np.float32],
    *,
    memory_bytes: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
def subset_scores(
    logits: NDArray[np.float32],
    lost: NDArray[np.float32],
    labels: NDArray[np.uint32],
    groups: NDArray[np.uint32],
    sets: NDArray[np.uint32],
    n_group: int,
) -> NDArray[np.uint32]: ...
def matmul(
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    out: NDArray[np.float32],
    *,
    transposed_a: bool,
    transposed_b: bool,
) -> None: ...
def kmeans(
    x: NDArray[np.float32],
    k: int,
    start: NDArray[np.float32] | None,
    *,
    seed: int,
    n_init: int,
    max_iter: int,
    tol: float,
) -> dict[str, Any]: ...
def site_kmeans(
    site: SiteArray,
    layer: int,
    k: int,
    *,
    seed: int,
    n_init: int,
    max_iter: int,
    tol: float,
    memory_bytes: int,
) -> dict[str, Any]: ...
def knn(
    x: NDArray[np.float32], queries: NDArray[np.float32], k: int, metric: str
) -> tuple[NDArray[np.uint64], NDArray[np.float32]]: ...
def site_knn(
    site: SiteArray,
    layer: int,
    queries: NDArray[np.float32],
    k: int,
    metric: str,
    *,
    memory_bytes: int,
) -> tuple[NDArray[np.uint64], NDArray[np.float32]]: ...
def moments(x: NDArray[np.float32], covariance: bool, ddof: int) -> dict[str, Any]: ...
def site_moments(
    site: SiteArray, layer: int, covariance: bool, ddof: int, *, memory_bytes: int
) -> dict[str, Any]: ...
def pca(
    covariance: NDArray[np.float64], n_component: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]: ...
