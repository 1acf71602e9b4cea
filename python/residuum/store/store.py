"""`Store`: a folder of activations, opened at its last commit.

Store ──▶ SiteArray            arrays, through the core
      ──▶ examples, tokens     tables, through pyarrow
      ──▶ weights, results     files beside them
      ──▶ sql, connect         DuckDB, through `residuum.query`, which registers itself here
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, overload

import pyarrow as pa
import pyarrow.dataset
from numpy.typing import NDArray

from residuum import _residuum
from residuum.errors import QueryError, SiteError, StoreError
from residuum.store import lens_files, show, user_tables
from residuum.store.parts import BASE_SCHEMAS, EXAMPLES, TOKENS, dataset
from residuum.store.results import Results
from residuum.store.s3_path import S3Path, StorePath, store_path
from residuum.store.selection import Selector
from residuum.store.site_array import SiteArray
from residuum.store.statistics import SiteStatistics
from residuum.store.verify import VerifyReport, verify
from residuum.store.weights import VOCABULARY_FILE, WEIGHTS_FILE, Weights, read_vocabulary

if TYPE_CHECKING:
    import duckdb


class Store:
    """What a model did on some examples; nothing is read until asked for.

    Shows the last commit at the time of opening; `is_current` says whether there is a newer one.
    """

    connector: ClassVar["Callable[[Store], duckdb.DuckDBPyConnection] | None"] = None
    """How to make a connection; `residuum.query` sets it, because a store does not know queries."""

    refresher: ClassVar["Callable[[Store, duckdb.DuckDBPyConnection], None] | None"] = None
    """How to show a connection the tables and results that came after it; set likewise."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the store in a folder, or in a bucket under a URL such as `s3://bucket/run.residuum`.

        Raises:
            StoreError: there is none, it is damaged, or a newer version of residuum wrote it.
        """
        self.path = store_path(path)
        self._core = _residuum.Store(self.path)
        self._commit: dict[str, Any] = self._core.commit
        self._arrays: dict[str, SiteArray] = {}
        self._shown: frozenset[tuple[str, str]] = frozenset()

    @property
    def commit(self) -> int:
        """Number of the commit that is shown."""
        return int(self._commit["commit"])

    @property
    def complete(self) -> bool:
        """Whether the capture that wrote the store has finished."""
        return bool(self._commit["complete"])

    @property
    def is_current(self) -> bool:
        """Whether no newer commit has appeared since the store was opened."""
        return self._core.is_current()

    @property
    def resume(self) -> dict[str, Any]:
        """What the capture keeps for going on."""
        return dict(self._commit["resume"] or {})

    @property
    def growth(self) -> dict[str, Any] | None:
        """What a capture is adding to the rows that are there, and how far it is, if it is.

        `arrays` with their `layers`, `rows` and `physical_rows` per row space, `n_example`.
        """
        growth: dict[str, Any] | None = self._commit.get("growth")
        return growth

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """`attributes.residuum` of the store's root: `format`, `model`, `capture`."""
        return dict(self._core.attributes)

    @property
    def model(self) -> dict[str, Any]:
        """The model that was captured: name, revision, configuration, hashes."""
        return dict(self.attributes.get("model") or {})

    @property
    def capture(self) -> dict[str, Any]:
        """How the model was captured: sites, dtype, versions, input."""
        return dict(self.attributes.get("capture") or {})

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the captured sites, in the order in which a pass reaches them."""
        return tuple(self._core.sites)

    @property
    def lossy(self) -> SiteArray | None:
        """The first site whose numbers are not exactly those that were captured: int8."""
        return next((self[name] for name in self.sites if self[name].error is not None), None)

    @property
    def rows(self) -> dict[str, int]:
        """Number of rows per row space: `token` and `example`."""
        return dict(self._commit["rows"])

    @property
    def physical_rows(self) -> dict[str, int]:
        """Rows per row space in shards on disk; a capture that goes on need not repeat them."""
        return dict(self._commit["physical_rows"])

    @property
    def n_row(self) -> int:
        """Number of stored (example, token) pairs; of examples if there are no token sites."""
        token_sites = any(self[site].row_space == "token" for site in self.sites)
        return self.rows["token" if token_sites else "example"]

    @property
    def n_example(self) -> int:
        """Number of examples, repeated inputs counted each time."""
        return int(self._commit["n_example"])

    @overload
    def __getitem__(self, site: str) -> SiteArray: ...
    @overload
    def __getitem__(self, site: tuple[str, Selector]) -> NDArray[Any]: ...
    def __getitem__(self, site: str | tuple[str, Selector]) -> SiteArray | NDArray[Any]:
        """Return a site's array, or with `store["resid_post", 5]` all rows of a layer, read.

        Raises:
            SiteError: no such site, or it was not captured; the message lists those that were.
        """
        if isinstance(site, tuple):
            name, layer = site
            return self[name].read(layers=layer)
        name = str(site)
        if name not in self._arrays:
            self._arrays[name] = SiteArray(self._core.site(name))
        return self._arrays[name]

    def __contains__(self, site: object) -> bool:
        """Whether a site was captured."""
        return site in self.sites

    def __iter__(self) -> None:
        """A store is no sequence; its sites are `store.sites`."""
        message = "a store cannot be iterated over; its sites are `store.sites`"
        raise TypeError(message)

    def statistics(self, site: str, layer: int | None = None) -> SiteStatistics:
        """Return what the capture noted of a layer of a site; reads no activation.

        Args:
            site: a site of the store; `pattern`, `attn_scores` and `logits` have no statistics.
            layer: the layer; leave it out for a site without layers.

        Raises:
            SiteError: a site or layer that was not captured, or a site without statistics.
            ArgumentError: no layer, of a site that has layers.
        """
        array = self[site]
        kept = self._core.statistics(site, array.one_layer(layer))
        if kept is None:
            message = f"{self.path} keeps no statistics of `{site}`: read its rows instead."
            raise SiteError(message)
        return SiteStatistics.of(kept, array)

    @property
    def target(self) -> SiteArray | None:
        """`index/target`: id of the token that follows each row's, int32 `[row]`, -1 at an end."""
        core = self._core.target()
        return None if core is None else SiteArray(core)

    @property
    def examples(self) -> pyarrow.dataset.Dataset:
        """One row per example: number, rows, content hash, and the columns of the input."""
        return self.dataset(EXAMPLES)

    @property
    def tokens(self) -> pyarrow.dataset.Dataset:
        """One row per token: example, position, row (null where nothing is stored), id, text."""
        return self.dataset(TOKENS)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of all tables: `examples`, `tokens` and those that were added."""
        return (EXAMPLES, TOKENS, *user_tables.names(self.path / "tables"))

    def table(self, name: str) -> pa.Table:
        """Read a table whole.

        Raises:
            StoreError: there is none of that name, or it is damaged.
        """
        data = self.dataset(name)
        try:
            return data.to_table()
        except (pa.ArrowException, OSError) as error:
            message = f"the table {name} of {self.path} is damaged: {error}"
            raise StoreError(message) from error

    def dataset(self, name: str) -> pyarrow.dataset.Dataset:
        """Open a table for reading parts of it.

        Raises:
            StoreError: there is none of that name, or it is damaged.
        """
        return dataset(self.parts(name), BASE_SCHEMAS.get(name, pa.schema([])))

    def add_table(self, name: str, table: pa.Table, *, replace: bool = False) -> None:
        """Keep a table in the store; `sql` and new connections see it under its name.

        Raises:
            ArgumentError: a name that cannot be used.
            StoreError: there is such a table and `replace` is false, or the disk refuses.
        """
        user_tables.write(self.path / "tables", name, table, replace=replace)

    def parts(self, name: str) -> list[StorePath]:
        """Files of a table, in order; of `examples` and `tokens` those that the commit lists."""
        folder = self.path / "tables" / name
        if name in (EXAMPLES, TOKENS):
            return [folder / part for part in self._commit["tables"].get(name, [])]
        return [user_tables.path(self.path / "tables", name)]

    @cached_property
    def weights(self) -> Weights:
        """The weights that reading needs, such as `W_U [d_model, d_vocab]`; float32."""
        return Weights(self.path / "weights" / WEIGHTS_FILE)

    @cached_property
    def vocabulary(self) -> Sequence[str]:
        """The decoded text of every token id; empty for a model without tokens."""
        return read_vocabulary(self.path / "weights" / VOCABULARY_FILE)

    @property
    def lenses(self) -> tuple[str, ...]:
        """Names of the tuned lenses that were kept, sorted; `residuum.lenses` reads them."""
        return tuple(lens_files.name_of(file) for file in lens_files.files(self.path))

    @cached_property
    def results(self) -> Results:
        """Results of analyses that were kept in the store."""
        return Results(self.path / "results")

    def result(self, analysis: str, key: str | None = None) -> dict[str, pa.Table]:
        """Return the tables of a kept result, the newest if no key is given.

        Raises:
            StoreError: the analysis was never asked, or not under that key.
        """
        if key is None:
            latest = self.results.latest(analysis)
            key = latest.key if latest else ""
        kept = self.results.get(analysis, key) if key else None
        if kept is None:
            known = sorted({r.analysis for r in self.results.list()})
            message = (
                f"{self.path} keeps no result of {analysis!r}{f' under {key}' if key else ''}; "
                f"it keeps results of: {', '.join(known) or 'nothing yet'}"
            )
            raise StoreError(message)
        return kept[0]

    def connect(self) -> "duckdb.DuckDBPyConnection":
        """Return a new DuckDB connection in which sites, tables and results are views.

        Raises:
            QueryError: DuckDB's extension is missing.
        """
        if Store.connector is None:
            message = "SQL needs residuum.query: import residuum instead of residuum.store alone"
            raise QueryError(message)
        return Store.connector(self)

    def sql(
        self, query: str, params: "Sequence[Any] | Mapping[str, Any] | None" = None
    ) -> "duckdb.DuckDBPyRelation":
        """Ask in SQL; `?` or `$name` in the query stand for `params`.

        Tables and results that were kept since the last question are seen. The relation is lazy:
        `.arrow()`, `.df()`, `.fetchall()` run it, on a connection that lives as long as the store.

        Raises:
            duckdb.Error: what DuckDB says, unchanged.
        """
        connection = self._connection
        added = self._added()
        if added != self._shown and Store.refresher is not None:
            Store.refresher(self, connection)
            self._shown = added
        return connection.sql(query, params=params)

    def _added(self) -> frozenset[tuple[str, str]]:
        """What tells whether a user table or result has come or changed: files and times."""
        patterns = ("tables/*/*.parquet", "results/*/[!.]*/*.json")
        if isinstance(self.path, S3Path):
            folders = [self.path / "tables", self.path / "results"]
            found = [listed for folder in folders for listed in folder.objects()]
            return frozenset((str(path), etag) for path, _, etag in found)
        files = [file for pattern in patterns for file in self.path.glob(pattern)]
        return frozenset((str(file), str(file.stat().st_mtime_ns)) for file in files)

    @cached_property
    def _connection(self) -> "duckdb.DuckDBPyConnection":
        self._shown = self._added()
        return self.connect()

    def vectors(
        self, site: str, rows: Selector, layers: Selector = None, heads: Selector = None
    ) -> NDArray[Any]:
        """Read rows that a query found, `[row, layer, head, feature]` in the order given.

        The quick way for selective questions: SQL finds row numbers without touching a vector, and
        only the chunks that hold them are read. Arguments and errors as for `SiteArray.read`.

        Example:
            found = store.sql("SELECT row FROM tokens WHERE text = ' Paris' AND row IS NOT NULL")
            vectors = store.vectors("resid_post", found.to_arrow_table()["row"], layers=5)
        """
        return self[site].read(rows, layers, heads)

    def counters(self) -> dict[str, int]:
        """Bytes read, chunks decoded and rows read through this store so far; not those of SQL.

        SQL counts apart: `residuum_counters(store)`.
        """
        return self._core.counters()

    def verify(self) -> VerifyReport:
        """Read everything back: checksums, shapes, tables, commits, lenses; lists what is wrong.

        Raises:
            StoreError: there is no store to verify.
        """
        return verify(self.path)

    def info(self) -> dict[str, Any]:
        """Everything about the store as plain values: model, sites, lenses, results, sizes, …."""
        return show.info(self)

    def __repr__(self) -> str:
        """What is in the store, on a few lines."""
        return show.text(self)

    def _repr_html_(self) -> str:
        return show.html(self)


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open a store at its last commit; `path` is its folder or a URL such as `s3://bucket/name`.

    Raises:
        StoreError: there is none, it is damaged, or a newer version of residuum wrote it.
    """
    return Store(path)
