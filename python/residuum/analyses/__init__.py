"""One module per method: each reads a store and returns a frozen `Result` of Arrow tables.

    residuum.analyses.run("logit_lens", store, k=5)  ->  Result  ->  report, SQL views, `--json`

A new analysis is a new file here that defines `ANALYSIS`; nothing lists it anywhere else.
`result.py` is what comes out, `params.py` what goes in, `rows.py` which token a row is.
"""

from residuum.analyses.registry import run

__all__ = ["run"]
