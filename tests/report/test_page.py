"""The page as text: what is in it, and that nothing in it reaches out or breaks out."""

import json
from html.parser import HTMLParser

import pyarrow as pa
import pytest
from report import results

from residuum.analyses.result import Result
from residuum.report import build, sections

REACHING = {"src", "href", "action", "data", "poster", "srcset", "formaction"}


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.addresses, self.headings, self.scripts, self._open = [], [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in REACHING]
        self._open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        while self._open and self._open[-1][0] != tag:
            self._open.pop()
        self._open.pop()

    def handle_data(self, data):
        tag, attrs = self._open[-1] if self._open else ("", {})
        if tag in ("h1", "h2", "h3"):
            self.headings.append((tag, data))
        if tag == "script" and "id" in attrs:
            self.scripts[attrs["id"]] = json.loads(data)


@pytest.fixture(scope="module")
def text():
    return build(results.CARD, results.everything())


def test_structure(text):
    page = Page(text)
    assert page.headings == [
        ("h1", "a <b>run</b>.residuum"),
        ("h2", "Logit lens"),
        ("h3", "What the model would say at each layer"),
        ("h3", "By layer"),
        ("h2", "Head attribution"),
        ("h3", "Heads"),
        ("h3", "Components"),
        ("h2", "Attention roles"),
        ("h3", "Where heads look"),
        ("h3", "Strongest heads"),
        ("h2", "Clusters"),
        ("h3", "Sizes"),
        ("h3", "Nearest to each centre"),
    ]
    charts = page.scripts["chart-specs"]
    # Lens map, two curves; heads, components; five roles with keys; two of clusters.
    assert len(charts) == 3 + 2 + 5 + 2
    assert all(chart["description"] for chart in charts)
    assert text.count("data-chart=") == len(charts)


def test_no_address_leaves_the_page(text):
    outside = [a for a in Page(text).addresses if not a.startswith(("#", "data:"))]
    assert outside == []
    assert "default-src 'none'" in text


def test_what_users_wrote_stays_text(text):
    before, _, after = text.partition('<script type="application/json"')
    assert "</script>" not in before
    assert "before &lt;i&gt;" in before
    assert "<b>run</b>" not in before
    # Four scripts end: two of data, the library, the start.
    assert after.count("</script>") == 4


def test_values_that_json_has_not_become_null(text):
    lens = Page(text).scripts["chart-specs"][0]
    (rows,) = lens["datasets"].values()
    assert {row["kl_to_final"] for row in rows if row["token"] == 0 and row["example"] == 0} == {
        None
    }


def test_an_analysis_without_charts_shows_its_tables():
    table = pa.table({"name": ["<x>"], "value": [1.25]})
    (section,) = sections(Result("unheard_of", {}, {"things": table}))
    assert section.title == "things"
    assert "&lt;x&gt;" in section.html
    assert "1.25" in section.html


def test_a_page_without_charts_carries_no_library():
    table = pa.table({"value": [1]})
    assert len(build(results.CARD, [Result("unheard_of", {}, {"things": table})])) < 20_000


def test_an_empty_trajectory_says_so():
    full = results.logit_lens()
    tables = {**full.tables, "trajectory": full["trajectory"].slice(0, 0)}
    first, _ = sections(Result("logit_lens", full.parameters, tables))
    assert first.text == "No token was asked for."
    assert first.charts == ()


def test_an_attribution_of_no_token_says_so():
    full = results.head_attribution()
    heads = full["heads"].drop_columns(["n"]).append_column("n", pa.array([0] * 15))
    (only,) = sections(Result("head_attribution", full.parameters, {**full.tables, "heads": heads}))
    assert only.text == "No token has a logit to explain."


def test_no_examples_in_the_menu_beyond_its_length():
    first, _ = sections(results.logit_lens(n_example=20, n_token=3))
    spec = first.charts[0].spec
    (menu,) = [p for p in spec["params"] if p["name"] == "example"]
    assert menu["bind"]["options"] == list(range(12))
    assert menu["bind"]["labels"][0].startswith("0: ")
