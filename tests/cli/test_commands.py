"""Every command on a captured store: what it prints, and that --json prints JSON and nothing "
"else."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import duckdb
import pyarrow.parquet as pq
import pytest
from command import one_paragraph, process, residuum

from residuum.store.results import Results

TEXTS = ["the red square sees the green circle", "a dog runs", "one", "a dog runs", "two stars"]


@pytest.fixture(scope="module")
def run(gpt2_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("com mands ü")
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    out = folder / "run.residuum"
    sites = [f"--site={site}" for site in ("resid_post", "z", "pattern", "resid_final")]
    done = residuum("capture", gpt2_folder, folder / "texts.txt", "-o", out, *sites)
    assert done.out == ""
    assert "5 examples, 4 sites." in done.err
    assert "residuum info" in done.err
    return out


def new_process(*arguments, **settings):
    command = [sys.executable, "-m", "residuum.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)


def sql(run, query, *more):
    return json.loads(residuum("sql", run, query, "--format", "json", *more).out)


def test_info(run):
    info = json.loads(residuum("info", run, "--json").out)
    assert info["n_example"] == 5
    assert info["complete"]
    assert info["sites"]["z"]["shape"] == [13, 3, 5, 7]
    assert info["model"]["n_head"] == 5
    assert info["lenses"] == []
    said = residuum("info", run).out
    assert all(word in said for word in ["resid_post", "pattern", "5 examples"])


def test_sites_and_layers_are_added_by_append(gpt2_folder, tmp_path):
    (tmp_path / "in.txt").write_text("the cat sees\na dog\n")
    out, first = tmp_path / "run", ["capture", gpt2_folder, tmp_path / "in.txt", "-o"]
    residuum(*first, out, "--site", "resid_post", "--layers", "0")
    done = residuum(*first, out, "--site", "z", "--layers", "1", "--append")
    assert "2 examples, 2 sites" in done.err
    sites = json.loads(residuum("info", out, "--json").out)["sites"]
    assert {name: site["layers"] for name, site in sites.items()} == {"resid_post": [0], "z": [1]}
    (tmp_path / "in.txt").write_text("a red dog\n")
    assert "3 examples, 2 sites" in residuum(*first, out, "--append").err


def test_one_is_singular(gpt2_folder, tmp_path):
    (tmp_path / "one.txt").write_text("one\n")
    out = tmp_path / "one.residuum"
    done = residuum("capture", gpt2_folder, tmp_path / "one.txt", "-o", out, "--site", "z")
    assert "1 example, 1 site." in done.err
    assert "1 example, 1 row, commit" in residuum("info", out).out
    (out / "tables" / "examples" / "part-00000001.parquet").unlink()
    assert "1 problem in" in residuum("verify", out, code=1).err


def test_verify(run):
    report = json.loads(residuum("verify", run, "--json").out)
    assert report["ok"]
    assert report["chunks"] > 0
    assert "no problem" in residuum("verify", run).out


def test_sql_formats(run, tmp_path):
    query = "SELECT example, n_token FROM examples ORDER BY example"
    rows = [{"example": i, "n_token": len(t.split())} for i, t in enumerate(TEXTS)]
    assert sql(run, query) == rows
    assert residuum("sql", run, query, "--format", "csv").out.splitlines()[1] == "0,7"
    assert "n_token" in residuum("sql", run, query).out
    residuum("sql", run, query, "-o", tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == rows
    out = residuum("sql", run, query, "-o", tmp_path / "a.json").out
    assert out == ""
    assert json.loads((tmp_path / "a.json").read_text()) == rows


def test_sql_joins_a_repeats_rows(run):
    query = """
        SELECT e.example, count(*) AS n FROM resid_post r JOIN tokens t USING (row)
        JOIN examples e USING (example) WHERE r.layer = 1 GROUP BY ALL ORDER BY 1
    """
    assert [row["n"] for row in sql(run, query)] == [7, 3, 1, 3, 2]


def test_sql_without_an_answer(run):
    assert residuum("sql", run, "CREATE TEMP TABLE t AS SELECT 1").out == ""
    assert residuum("sql", run, "SET threads = 1").out == ""


def test_sql_runs_all_statements_and_prints_what_each_answers(run):
    query = "CREATE TEMP TABLE t AS SELECT 7 AS first; FROM t; DROP TABLE t; SELECT 8 AS second;"
    said = residuum("sql", run, query).out
    assert said.index("first") < said.index("7") < said.index("second") < said.index("8")
    one = "CREATE TEMP TABLE t AS SELECT 7 AS n; SELECT n FROM t; -- the end"
    assert sql(run, one) == [{"n": 7}]
    returning = "CREATE TEMP TABLE t (n INT); INSERT INTO t VALUES (3) RETURNING n"
    assert sql(run, returning) == [{"n": 3}]


@pytest.mark.parametrize("more", [["--format", "json"], ["--format", "csv"], ["-o", "a.parquet"]])
def test_one_file_or_stream_holds_one_answer(run, tmp_path, monkeypatch, more):
    monkeypatch.chdir(tmp_path)
    inserted = "CREATE TEMP TABLE t (n INT); INSERT INTO t VALUES (3) RETURNING n; FROM t"
    for query in ("SELECT 1 AS a; SELECT 2 AS b", inserted):
        done = residuum("sql", run, query, *more, code=2)
        assert f"{' '.join(more)} holds the answer of one query, but 2 were given" in done.err
        assert done.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("query", ["", " \n", "-- SELECT 1", ";; /* nothing */ ;"])
def test_a_query_without_a_statement_is_wrong_usage(run, query):
    assert "no SQL statement" in residuum("sql", run, query, code=2).err
    assert "no SQL statement" in new_process("sql", run, input=query).stderr


def test_a_file_that_nothing_would_be_written_to_is_refused(run, tmp_path):
    done = residuum("sql", run, "SET threads = 1", "-o", tmp_path / "a.csv", code=2)
    assert "no answer" in done.err
    assert not list(tmp_path.iterdir())


def test_an_unknown_suffix_is_refused(run, tmp_path):
    done = residuum("sql", run, "SELECT 1", "-o", tmp_path / "out.xyz", code=2)
    assert all(word in done.err for word in ["out.xyz", ".csv, .json, .parquet, .txt", "--format"])
    assert not list(tmp_path.iterdir())
    residuum("sql", run, "SELECT 1 AS a", "-o", tmp_path / "out.xyz", "--format", "csv")
    assert (tmp_path / "out.xyz").read_text() == "a\n1\n"


def test_a_comment_behind_a_statement_is_no_part_of_it(run):
    query = "-- ü\nSELECT 'é;' AS a; -- the end; of it\n ; /* really */"
    assert "é;" in residuum("sql", run, query).out
    assert sql(run, query) == [{"a": "é;"}]


def test_sql_reads_a_script_from_stdin(run, tmp_path):
    script = "CREATE TEMP TABLE t AS\nSELECT 41 AS n;\nSELECT n + 1 AS answer FROM t"
    done = new_process("sql", run, "--format", "json", input=script)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"answer": 42}]
    done = new_process("sql", run, "-o", tmp_path / "a.csv", input=script)
    assert (tmp_path / "a.csv").read_text() == "answer\n42\n", done.stderr
    done = new_process("sql", run, input="SELECT 1 AS first;\nSELECT 2 AS second;")
    assert done.stdout.index("first") < done.stdout.index("second")
    done = new_process("sql", run, input="SELEC;\nSELECT 1;\n")
    assert done.returncode == 1
    assert "SELEC" in done.stderr
    assert done.stdout == ""


def test_ctrl_c_ends_a_query(run):
    """Also one that DuckDB computes in a single piece, without a look at signals."""
    query = "COPY (SELECT 1) TO '/dev/stdout'; SELECT sum(range) FROM range(1000000000000)"
    with process(sys.executable, "-m", "residuum.cli", "sql", str(run), query) as asking:
        asking.stdout.readline()
        time.sleep(0.2)
        said = interrupted(asking)
    assert len(said.splitlines()) == 1


def interrupted(asking):
    """What a process says after Ctrl-C."""
    asking.send_signal(signal.SIGINT)
    _, said = asking.communicate(timeout=30)
    assert asking.returncode == 1
    assert "nterrupted." in said
    return said


def test_ctrl_c_ends_an_analysis(run):
    """Also in a kernel that would go on for hours, and nothing half-made is left."""
    code = "import residuum.cli, residuum.analyses.clusters as c; print('go', flush=True); " + (
        "residuum.cli.main()"
    )
    asked = ["run", "clusters", str(run), "--set", "k=2", "--set", "restarts=1000000000"]
    with process(sys.executable, "-c", code, *asked) as asking:
        asking.stdout.readline()
        time.sleep(1)
        assert asking.poll() is None
        said = interrupted(asking)
    assert len(said.splitlines()) == 1
    assert not list((run / "results").glob("clusters/*"))


def test_extension_path_is_printed_without_a_store():
    path = residuum("sql", "--print-extension-path").out.strip()
    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    connection.execute(f"LOAD '{path}'")


def test_analyses_are_listed():
    found = json.loads(residuum("analyses", "--json").out)
    names = [one["name"] for one in found]
    assert {"logit_lens", "head_attribution", "attention_roles", "clusters"} <= set(names)
    said = residuum("analyses").out
    assert all(name in said for name in names)


@pytest.mark.filterwarnings("default:.*cannot be written")
def test_an_answer_that_cannot_be_kept_is_printed_with_a_warning(run, monkeypatch):
    def refuse(*_arguments):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Results, "put", refuse)
    done = residuum("run", "logit_lens", run, "--set", "k=3", "--json")
    assert json.loads(done.out)["tables"]["trajectory"]
    (said,) = done.err.strip().splitlines()
    assert said.startswith(f"Warning: {run} cannot be written")


def test_run_prints_json_and_nothing_else(run):
    done = residuum("run", "logit_lens", run, "--set", "k=2", "--json")
    document = json.loads(done.out)
    assert document["analysis"] == "logit_lens"
    assert document["parameters"]["k"] == 2
    assert all(document["tables"].values())
    assert done.err == ""


def test_run_writes_tables(run, tmp_path):
    out = tmp_path / "new folder"
    done = residuum("run", "attention_roles", run, "-o", out)
    assert done.out == ""
    files = sorted(out.glob("*.parquet"))
    assert files
    assert all(pq.read_table(file).num_rows for file in files)


def test_run_of_nothing_known_lists_the_analyses(run):
    said = one_paragraph(residuum("run", "no_such", run, code=1))
    assert "logit_lens" in said
    assert "no_such" in said
    assert "zzz" in one_paragraph(residuum("run", "logit_lens", run, "--set", "zzz=1", code=1))


def test_report_of_nothing_that_fits_writes_nothing(gpt2_folder, tmp_path):
    texts, out = tmp_path / "texts.txt", tmp_path / "run"
    texts.write_text("the dog\na cat\n")
    keys = ["--site", "pattern", "--positions", "last", "--keys", "stored"]
    residuum("capture", gpt2_folder, texts, "-o", out, *keys)
    done = residuum("report", out, "-o", tmp_path / "report.html", code=1)
    assert "left out: " in done.err
    assert "there is nothing to report" in done.err
    assert not (tmp_path / "report.html").exists()


def test_report_is_one_file(run, tmp_path):
    done = residuum("report", run, "attention_roles", "-o", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "run.residuum" in page
    assert "attention_roles" in done.err
    assert [f.name for f in tmp_path.iterdir()] == ["report.html"]


def test_report_leaves_out_what_does_not_fit_the_store(tmp_path, gpt2_folder):
    few = tmp_path / "few.residuum"
    (tmp_path / "few.txt").write_text("a dog runs\n")
    sites = ["--site", "resid_post", "--site", "pattern"]
    residuum("capture", gpt2_folder, tmp_path / "few.txt", "-o", few, *sites)
    done = residuum("report", few, "-o", tmp_path / "report.html")
    assert "left out: clusters" in done.err
    assert "attention_roles" in done.err
    assert "k" in one_paragraph(residuum("report", few, "clusters", "-o", tmp_path / "x", code=1))
    assert not (tmp_path / "x").exists()


def test_help_names_every_command():
    said = residuum("--help").out
    commands = ["capture", "info", "verify", "sql", "analyses", "run", "report", "lens"]
    assert all(command in said for command in commands)
    for command in commands:
        assert "Usage:" in residuum(command, "--help").out


def test_a_reader_that_stops_early_is_no_error(run):
    query = "SELECT range, repeat('x', 100) FROM range(100000)"
    command = f"'{sys.executable}' -m residuum.cli sql '{run}' \"{query}\" --format csv | head -n 2"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""


def test_asking_needs_no_torch(run):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from residuum.cli import run_command\n"
        f"assert run_command(['info', {str(run)!r}, '--json']) == 0\n"
        f"assert run_command(['sql', {str(run)!r}, 'SELECT count(*) FROM z']) == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_capturing_without_torch_names_the_extra(tmp_path):
    (tmp_path / "in.txt").write_text("a dog")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from residuum.cli import run_command\n"
        f"arguments = ['capture', 'model', {str(tmp_path / 'in.txt')!r}, '-o', "
        f"{str(tmp_path / 'run')!r}, '--site', 'z']\n"
        "sys.exit(run_command(arguments))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "residuum[capture]" in done.stderr
    assert "Traceback" not in done.stderr
