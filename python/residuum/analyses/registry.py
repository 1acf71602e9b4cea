"""What can be asked: every module of this package that defines `ANALYSIS`, under its name.

    Analysis.run(store, **params)
        params.check      strings and values -> the analysis' frozen parameter class
        require           are the sites there? if not, say what to capture
        store.results     asked before under the same key? then read
        compute           else work, and keep the tables in the store (if it can be written)

The key is a hash of the analysis' name and version, its parameters and the store's commit: a store
that has grown, or an analysis that was corrected, is asked anew.
"""

import errno
import importlib
import json
import pkgutil
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from residuum import analyses
from residuum.analyses import params as parameters
from residuum.analyses.result import Result
from residuum.errors import ArgumentError, InputError, SiteError
from residuum.store import key_of

if TYPE_CHECKING:
    from residuum.store import Store

Tables = dict[str, pa.Table]

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""How a system says that a store can be read but not written."""


@dataclass(frozen=True)
class TableSpec:
    """A table an analysis makes: its name, what a row is, its columns with meaning and unit."""

    name: str
    row_is: str
    schema: pa.Schema

    def describe(self) -> dict[str, Any]:
        """Plain values for `residuum analyses --json`."""
        notes = [(f, f.metadata or {}) for f in self.schema]
        columns = [
            {
                "name": f.name,
                "type": str(f.type),
                "meaning": note.get(b"meaning", b"").decode(),
                "unit": note.get(b"unit", b"").decode(),
            }
            for f, note in notes
        ]
        return {"name": self.name, "row_is": self.row_is, "columns": columns}


@dataclass(frozen=True)
class Analysis:
    """One method: what it is, what it needs, what it makes, and how.

    `sites` is a tuple of needs; a need is a tuple of sites of which one must be there. `weights`
    are the readout weights it cannot do without. `settle` puts what the store decides in the place
    of parameters that were left out, so that a result says what it is of. `exact` is for a method
    that claims an identity, such as parts that sum to a whole: a store with int8 sites, in which
    the numbers are not those that the model computed, is refused. `columns` are those of the inputs
    that it reads; a store without them is not asked unless it is named. `newest_first` is for
    a method whose defaults name no texts and no labels, and say little: a report draws its newest
    answer. `trains` is for a method that takes long on a large store, and is asked only by its name
    too. `holds` says whether a
    kept answer still counts, where an analysis leaves something else in the store. `unasked` names
    tables that are empty as the parameters do not ask for them: views show an older result's.
    """

    name: str
    version: int
    title: str
    source: str
    params: type
    sites: tuple[tuple[str, ...], ...]
    tables: tuple[TableSpec, ...]
    compute: Callable[["Store", Any], Tables]
    weights: tuple[str, ...] = ()
    settle: Callable[["Store", Any], Any] = lambda _store, params: params
    exact: bool = False
    columns: tuple[str, ...] = ()
    trains: bool = False
    newest_first: bool = False
    holds: Callable[["Store", Any], bool] = lambda _store, _params: True
    unasked: Callable[[Any], Collection[str]] = lambda _params: ()

    def run(self, store: "Store", **params: object) -> Result:
        """The tables for these parameters, read from the store if they were asked for before.

        Raises:
            ArgumentError: A parameter that does not exist or does not fit.
            InputError: The store's examples lack a column.
            SiteError: The store lacks a site, or has one of int8 where exact numbers are needed;
                the message says what to do.

        """
        chosen, plain, key = self._question(store, params)
        kept = store.results.get(self.name, key)
        if kept is not None and self.holds(store, chosen):
            return Result(self.name, plain, *kept)
        start = time.perf_counter()
        tables = self._checked(self.compute(store, chosen))
        provenance = {
            "analysis": self.name,
            "version": self.version,
            "title": self.title,
            "source": self.source,
            "parameters": plain,
            "commit": store.commit,
            "seconds": round(time.perf_counter() - start, 3),
        }
        if unasked := sorted(self.unasked(chosen)):
            provenance["unasked"] = unasked
        try:
            if kept is not None:
                store.results.remove(self.name, key)
            provenance = dict(store.results.put(self.name, key, tables, provenance).provenance)
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
            message = f"{store.path} cannot be written ({error.strerror}): the answer is not kept."
            warnings.warn(message, stacklevel=2)
        return Result(self.name, plain, tables, provenance)

    def kept(self, store: "Store", **params: object) -> Result | None:
        """The answer to these parameters, if it was computed before; nothing is computed.

        Raises:
            ArgumentError, InputError, SiteError: as of `run`.
        """
        chosen, plain, key = self._question(store, params)
        found = store.results.get(self.name, key)
        held = found is not None and self.holds(store, chosen)
        return Result(self.name, plain, *found) if found is not None and held else None

    def newest(self, store: "Store") -> Result | None:
        """The answer that was computed last, whatever its parameters, if the store is as it was."""
        for one in reversed(store.results.list(self.name)):
            plain = one.provenance.get("parameters", {})
            key = key_of(self.name, self.version, plain, store.commit, store.n_example)
            found = store.results.get(self.name, key) if key == one.key else None
            if found is not None:
                return Result(self.name, plain, *found)
        return None

    def _question(self, store: "Store", params: Mapping[str, object]) -> tuple[Any, Any, str]:
        """The parameters as they are settled, the same as plain values, and the key of both."""
        asked: Any = parameters.check(self.params, params, analysis=self.name)
        require(store, *self.sites, analysis=self.name)
        require_columns(store, *self.columns, analysis=self.name)
        if self.exact:
            refuse_lossy(store, analysis=self.name)
        chosen = self.settle(store, asked)
        plain = json.loads(json.dumps(asdict(chosen)))
        return chosen, plain, key_of(self.name, self.version, plain, store.commit, store.n_example)

    def describe(self) -> dict[str, Any]:
        """Plain values for `residuum analyses --json`."""
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "version": self.version,
            "sites": [list(need) for need in self.sites],
            "weights": list(self.weights),
            "columns": list(self.columns),
            "exact": self.exact,
            "parameters": parameters.describe(self.params),
            "tables": [table.describe() for table in self.tables],
        }

    def _checked(self, tables: Tables) -> Tables:
        """The tables in the declared order, each with exactly the declared columns."""
        declared = {table.name: table.schema for table in self.tables}
        if set(tables) != set(declared):
            message = f"{self.name} made the tables {sorted(tables)}, declared {sorted(declared)}"
            raise AssertionError(message)
        return {name: tables[name].select(s.names).cast(s) for name, s in declared.items()}


@cache
def registered() -> Mapping[str, Analysis]:
    """All analyses by name, in alphabetical order."""
    found = {}
    for module in pkgutil.iter_modules(analyses.__path__):
        loaded = importlib.import_module(f"{analyses.__name__}.{module.name}")
        analysis = getattr(loaded, "ANALYSIS", None)
        if isinstance(analysis, Analysis):
            found[analysis.name] = analysis
    return MappingProxyType(dict(sorted(found.items())))


def find(name: str) -> Analysis:
    """The analysis of that name; the error lists the names."""
    known = registered()
    if name not in known:
        message = f"there is no analysis {name!r}; there are: {', '.join(known)}"
        raise ArgumentError(message)
    return known[name]


def answerable(store: "Store") -> list[Analysis]:
    """The analyses that can be run on a store without parameters, and without much ado."""
    have, weights, columns = set(store.sites), set(store.weights), set(store.examples.schema.names)
    return [
        analysis
        for analysis in registered().values()
        if all(have.intersection(need) for need in analysis.sites)
        and weights.issuperset(analysis.weights)
        and columns.issuperset(analysis.columns)
        and not analysis.trains
    ]


def run(name: str, store: "Store", **params: object) -> Result:
    """Ask the store by the analysis' name."""
    return find(name).run(store, **params)


def require(store: "Store", *needs: tuple[str, ...], analysis: str) -> None:
    """Refuse a store that lacks a site, naming what to capture.

    Raises:
        SiteError: None of the sites of one need is in the store.

    """
    have = [str(site) for site in store.sites]
    for need in needs:
        if not set(need) & set(have):
            wanted = " or ".join(need)
            message = (
                f"{analysis} needs the site {wanted}, which {store.path} does not hold; it holds "
                f"{', '.join(have) or 'none'}. Capture again with --site {need[0]}."
            )
            raise SiteError(message)


def require_columns(store: "Store", *columns: str, analysis: str) -> None:
    """Refuse a store whose examples lack a column, naming it.

    Raises:
        InputError: A column is not there.

    """
    have = set(store.examples.schema.names)
    missing = [column for column in columns if column not in have]
    if missing:
        message = (
            f"{analysis} reads the columns {', '.join(columns)} of the captured inputs, but the "
            f"examples of {store.path} have no {', '.join(missing)}: capture prompts that "
            "`residuum.prompts` made."
        )
        raise InputError(message)


def refuse_lossy(store: "Store", *, analysis: str) -> None:
    """Refuse a store whose numbers are not exactly those that were captured.

    Raises:
        SiteError: A site is int8.

    """
    site = store.lossy
    if site is not None:
        message = (
            f"{analysis} needs exact numbers, but {site.name} of {store.path} is "
            f"{site.stored_dtype} ({site.error}): ask the store that it was exported from, or one "
            "of 16 bits."
        )
        raise SiteError(message)
