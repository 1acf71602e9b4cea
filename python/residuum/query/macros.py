"""The extension's functions without the store argument and without the prefix.

`logit_lens(k := 1)` is `residuum_logit_lens('<store>', k := 1)`. Parameters default to NULL,
which the functions take for "not given".
"""

from collections.abc import Iterator
from dataclasses import dataclass

from residuum.query import quote
from residuum.store import Store


@dataclass(frozen=True)
class TableMacro:
    """A table function: what follows the store, in order, and what is given by name."""

    name: str
    positional: tuple[str, ...]
    named: tuple[str, ...]

    def statement(self, store: str) -> str:
        """The `CREATE MACRO`; `store` is a literal."""
        # Quoted: `to` is a keyword, and DuckDB 1.5 takes `row` for one too.
        positional = [quote.name(name) for name in self.positional]
        named = [quote.name(name) for name in self.named]
        parameters = [*positional, *(f"{name} := NULL" for name in named)]
        arguments = [store, *positional, *(f"{name} := {name}" for name in named)]
        call = f"residuum_{self.name}({', '.join(arguments)})"
        head = f"CREATE OR REPLACE MACRO {self.name}({', '.join(parameters)})"
        return f"{head} AS TABLE SELECT * FROM {call}"


TABLE_MACROS = (
    TableMacro("activations", ("site",), ("layers", "heads", "rows", "direction")),
    TableMacro("head_logits", (), ("tokens", "layers", "rows")),
    TableMacro("logit_lens", (), ("layers", "k", "rows")),
    TableMacro("tuned_lens", (), ("lens", "layers", "k", "rows")),
    TableMacro("clip_contributions", (), ("directions", "layers", "examples")),
    TableMacro("clip_patch_contributions", (), ("directions", "layers", "examples")),
    TableMacro("nearest", ("site", "layer"), ("of", "to", "feature", "k", "metric")),
)


def statements(store: Store) -> Iterator[str]:
    """Yield one `CREATE MACRO` per function of the extension."""
    literal = quote.text(str(store.path))
    for macro in TABLE_MACROS:
        yield macro.statement(literal)
    names = [quote.name(name) for name in ("site", "row", "layer", "head")]
    overloads = ", ".join(
        f"({', '.join(names[:n])}) AS residuum_vec({literal}, {', '.join(names[:n])})"
        for n in (2, 3, 4)
    )
    yield f"CREATE OR REPLACE MACRO vec {overloads}"
