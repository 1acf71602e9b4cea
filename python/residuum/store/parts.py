"""`examples` and `tokens`: Parquet parts, of which a commit says which ones count."""

import os
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet

from residuum.errors import StoreError
from residuum.store.files import write_atomic
from residuum.store.s3_path import S3Path, StorePath

EXAMPLES = "examples"
TOKENS = "tokens"

BASE_SCHEMAS: dict[str, pa.Schema] = {
    EXAMPLES: pa.schema(
        [
            pa.field("example", pa.int64(), nullable=False),
            pa.field("n_token", pa.int32(), nullable=False),
            pa.field("n_row", pa.int32(), nullable=False),
            pa.field("first_row", pa.int64()),
            pa.field("example_row", pa.int64()),
            pa.field("content_hash", pa.string(), nullable=False),
        ]
    ),
    TOKENS: pa.schema(
        [
            pa.field("example", pa.int64(), nullable=False),
            pa.field("token", pa.int32(), nullable=False),
            pa.field("row", pa.int64()),
            pa.field("token_id", pa.int32()),
            pa.field("text", pa.string()),
            pa.field("char_start", pa.int32()),
            pa.field("char_end", pa.int32()),
        ]
    ),
}
"""What the tables have at least: the columns of a store in which nothing was captured yet."""

EXAMPLE_COLUMNS: tuple[str, ...] = tuple(BASE_SCHEMAS[EXAMPLES].names)

_ROW_GROUP = 1 << 17


def part_name(number: int, n_saved: int | None = None) -> str:
    """Name of the part that commit `number` adds, or that holds what is saved ahead of it."""
    saved = "" if n_saved is None else f"-saved-{n_saved}"
    return f"part-{number:08d}{saved}.parquet"


def write_part(folder: StorePath, name: str, table: pa.Table) -> None:
    """Write one part, durable before it has its name."""
    folder.mkdir(parents=True, exist_ok=True)

    def write(file: object) -> None:
        pyarrow.parquet.write_table(table, file, compression="zstd", row_group_size=_ROW_GROUP)

    write_atomic(folder / name, write)


def remove_unlisted(tables: StorePath, listed: Mapping[str, Sequence[str]]) -> None:
    """Remove parts that no commit needs: what an interrupted or killed capture saved."""
    for name in (EXAMPLES, TOKENS):
        for path in (tables / name).glob("part-*.parquet"):
            if path.name not in listed.get(name, ()):
                path.unlink()


def require(parts: Sequence[StorePath]) -> None:
    """Refuse parts that are not there.

    Raises:
        StoreError: a part is missing.
    """
    for path in parts:
        if not path.is_file():
            message = f"{path} is missing, but the last commit lists it"
            raise StoreError(message)


def read_parquet(path: StorePath) -> pa.Table:
    """Read one file whole.

    Raises:
        pa.ArrowException: it is no Parquet file.
        OSError: it cannot be read.
    """
    source = pa.BufferReader(path.read_bytes()) if isinstance(path, S3Path) else path
    return pyarrow.parquet.read_table(source, partitioning=None)


def dataset(parts: Sequence[StorePath], empty: pa.Schema) -> pyarrow.dataset.Dataset:
    """Return the parts as one dataset; columns that some of them lack are null there.

    Raises:
        StoreError: a part is missing or is no Parquet file.
    """
    if not parts:
        return pyarrow.dataset.dataset(empty.empty_table())
    require(parts)
    try:
        factory = pyarrow.dataset.FileSystemDatasetFactory(
            _file_system(parts[0]),
            [path.key if isinstance(path, S3Path) else str(path) for path in parts],
            pyarrow.dataset.ParquetFileFormat(),
        )
        return factory.finish(factory.inspect(promote_options="permissive"))
    except (pa.ArrowException, OSError) as error:
        message = f"{parts[0].parent} is damaged: {error}"
        raise StoreError(message) from error


def _file_system(path: StorePath) -> pyarrow.fs.FileSystem:
    if not isinstance(path, S3Path):
        return pa.fs.LocalFileSystem()
    # As the core knows it; everything else is found where the core finds it.
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return pa.fs.S3FileSystem(
        endpoint_override=next(filter(None, map(os.environ.get, names)), None),
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        anonymous=os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true"),
    )
