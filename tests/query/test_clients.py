"""One file for every DuckDB: Python 1.5.6, Python of this environment (2.0), and the command line.

The others run in environments of their own, which uv makes and keeps in its cache.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

VERSION = "1.5.6"
QUERIES = {
    "sites": "SELECT site, shape, layers, vec_type FROM {store}",
    "count": "SELECT count(*) AS n FROM residuum_activations({store}, 'z')",
    "scan": "SELECT row, layer, head, vec::FLOAT[] AS vec, norm, dot FROM residuum_activations("
    "{store}, 'z', layers := [2], heads := [1, 4], rows := [0, 63, 64, 699], "
    "direction := [1, 0, 0, 0, 0, 0, 2]) ORDER BY ALL",
    "late": "SELECT layer, round(sum(vec[1]), 4) AS total FROM (SELECT layer, "
    "residuum_vec35({store}, 'resid_post', row, layer) AS vec "
    "FROM residuum_activations({store}, 'resid_post')) WHERE layer >= 1 GROUP BY ALL ORDER BY ALL",
    "vec": "SELECT residuum_vec({store}, 'z', 5, 1, 2) AS of_head, "
    "residuum_vec({store}, 'embed', 5) AS whole, residuum_vec({store}, 'embed', NULL) AS nothing",
    "lens": "SELECT row, layer, rank, token_id, token, target_rank, round(entropy, 4) AS entropy "
    "FROM residuum_logit_lens({store}, k := 2, rows := [3, 600]) ORDER BY ALL",
    "heads": "SELECT row, layer, head, token_id, round(logit, 4) AS logit "
    "FROM residuum_head_logits({store}, tokens := [1, 42], rows := [3]) ORDER BY ALL",
    "nearest": "SELECT row, rank FROM residuum_nearest({store}, 'resid_post', 1, of := 17, k := 3)",
}


def uv() -> str:
    """The uv that runs these tests, or any."""
    found = os.environ.get("UV") or shutil.which("uv")
    assert found, "uv is needed for DuckDB in environments of its own: `make test` brings it"
    return found


def isolated(package: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command where `package` is installed and nothing of this project is."""
    where = ["--isolated", "--no-project", "--no-config", "--python", sys.executable]
    kept = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    return subprocess.run(
        [uv(), "run", "--quiet", *where, "--with", f"{package}=={VERSION}", *command],
        check=True,
        capture_output=True,
        text=True,
        env=kept,
    )


PYTHON = """
import json, sys, duckdb
extension, queries = sys.argv[1], json.loads(sys.argv[2])
assert duckdb.__version__ == "1.5.6", duckdb.__version__
connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
connection.execute(f"LOAD '{extension}'")
out = {}
for name, query in queries.items():
    cursor = connection.execute(query)
    columns = [column[0] for column in cursor.description]
    out[name] = [dict(zip(columns, row)) for row in cursor.fetchall()]
json.dump(out, sys.stdout)
"""


@pytest.fixture(scope="module")
def queries(tiny) -> dict[str, str]:
    return {name: query.format(store=f"'{tiny.path}'") for name, query in QUERIES.items()}


@pytest.fixture
def expected(sql, queries):
    """The answers of the DuckDB in this environment."""
    out = {}
    for name, query in queries.items():
        cursor = sql.execute(query)
        columns = [column[0] for column in cursor.description]
        out[name] = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    assert all(out.values()), "a query that gives nothing compares nothing"
    return out


def test_python_of_the_last_1_x_answers_the_same(extension: Path, queries, expected):
    done = isolated("duckdb", "python", "-c", PYTHON, str(extension), json.dumps(queries))
    assert json.loads(done.stdout) == expected


CONNECTED = """
import json, sys, duckdb, residuum
connection = residuum.open(sys.argv[1]).connect()
out = [connection.execute(query).fetchall() for query in json.loads(sys.argv[2])]
json.dump([duckdb.__version__, out], sys.stdout)
"""


def test_a_connection_of_the_last_1_x_has_the_same_views_and_macros(tiny, tmp_path):
    """The whole package on DuckDB 1.5, which it allows; its parser knows other keywords."""
    queries = [
        "SELECT count(*) FROM resid_post",
        "SELECT row, layer, head, vec FROM z WHERE layer = 1 AND row < 2 ORDER BY 1, 2, 3",
        "SELECT vec('z', 5, 1, 2), vec('resid_post', 5, 1), vec('embed', 5)",
        'SELECT row, rank, token_id FROM logit_lens(k := 2, "rows" := [3]) ORDER BY ALL',
        'SELECT row, head, token_id FROM head_logits(tokens := [1], "rows" := [3]) ORDER BY ALL',
        "SELECT row, rank FROM nearest('resid_post', 1, of := 17, k := 3)",
        "SELECT row, norm FROM activations('z', layers := [1], \"rows\" := [3, 4]) ORDER BY ALL",
    ]
    older = tmp_path / "older"
    subprocess.run(
        [
            *(uv(), "pip", "install", "--quiet", "--no-deps", "--python", sys.executable),
            *("--target", str(older), f"duckdb=={VERSION}"),
        ],
        check=True,
    )
    arguments = [sys.executable, "-c", CONNECTED, str(tiny.path), json.dumps(queries)]
    answers = []
    for path in (str(older), ""):
        env = os.environ | {"PYTHONPATH": path}
        done = subprocess.run(arguments, check=True, capture_output=True, text=True, env=env)
        answers.append(json.loads(done.stdout))
    assert answers[0][0] == VERSION
    assert answers[1][0] != VERSION
    assert answers[0][1] == answers[1][1]
    assert all(answers[0][1])


def test_the_command_line_answers_the_same(extension: Path, queries, expected):
    for name, query in queries.items():
        script = f"LOAD '{extension}'; {query};"
        done = isolated("duckdb-cli", "duckdb", "-unsigned", "-json", "-c", script)
        rows = json.loads(done.stdout)
        assert rows == expected[name], name


def test_the_shell_of_residuum_needs_no_python_object(extension: Path, tiny):
    script = f"LOAD '{extension}'; SELECT count(*) AS n FROM '{tiny.path}';"
    done = isolated("duckdb-cli", "duckdb", "-unsigned", "-csv", "-c", script)
    assert done.stdout.splitlines() == ["n", "7"]
