"""One HTML file around the sections: style, words, the chart library inlined once.

Nothing in the page names another address, so it opens from a disk without a network.
"""

import html
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import vl_convert

from residuum.analyses.result import Result
from residuum.report.card import StoreCard
from residuum.report.charts import Chart, count, vl_version
from residuum.report.sections import Section, sections
from residuum.report.theme import config


def build(card: StoreCard, results: Sequence[Result]) -> str:
    """The page as one string of HTML."""
    charts: list[Chart] = []
    parts = [_result(number, result, charts) for number, result in enumerate(results)]
    contents = "".join(
        f'<li><a href="#result-{number}">{html.escape(result.title)}</a></li>'
        for number, result in enumerate(results)
    )
    values = {
        "title": html.escape(card.name),
        "style": _asset("page.css"),
        "facts": _facts(card),
        "sites": _sites(card.sites),
        "contents": contents,
        "body": "".join(parts),
        "specs": _script_json([chart.spec for chart in charts]),
        "configs": _script_json({mode: config(mode) for mode in ("light", "dark")}),
        "library": chart_library() if charts else "",
        "start": _asset("page.js") if charts else "",
    }
    return _fill(_asset("page.html"), values)


@cache
def chart_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that asks the network for nothing."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version()))


def _fill(template: str, values: Mapping[str, str]) -> str:
    """Put values for `{{name}}`, once each; what a value contains is not looked at again."""
    first, *rest = template.split("{{")
    filled = [first]
    for piece in rest:
        name, _, after = piece.partition("}}")
        filled += [values[name], after]
    return "".join(filled)


def _result(number: int, result: Result, charts: list[Chart]) -> str:
    body = "".join(_section(section, charts) for section in sections(result))
    return (
        f'<section class="result" id="result-{number}"><h2>{html.escape(result.title)}</h2>'
        f"{_origin(result)}{body}</section>"
    )


def _origin(result: Result) -> str:
    """Source and parameters, folded away."""
    rows = [*result.parameters.items()]
    rows += [(k, v) for k in ("source", "version", "commit") if (v := result.provenance.get(k))]
    terms = "".join(
        f"<dt>{html.escape(str(k))}</dt><dd>{html.escape(_plain(v))}</dd>" for k, v in rows
    )
    name = html.escape(result.analysis)
    return (
        f"<details><summary><code>{name}</code>: parameters and source</summary>"
        f"<dl>{terms}</dl></details>"
    )


def _plain(value: object) -> str:
    if value is None:
        return "all"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none given"
    return str(value)


def _section(section: Section, charts: list[Chart]) -> str:
    figures = []
    for chart in section.charts:
        figures.append(_figure(len(charts), chart))
        charts.append(chart)
    return (
        f"<h3>{html.escape(section.title)}</h3><p>{html.escape(section.text)}</p>"
        f'<div class="charts">{"".join(figures)}{section.html}</div>'
    )


def _figure(number: int, chart: Chart) -> str:
    title, says = html.escape(chart.title), html.escape(chart.says)
    return (
        f"<figure><figcaption><b>{title}</b><span>{says}</span></figcaption>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        f'<div class="chart" data-chart="{number}"></div></div></figure>'
    )


def _facts(card: StoreCard) -> str:
    return "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in card.facts.items()
    )


def _sites(rows: Sequence[Mapping[str, object]]) -> str:
    if not rows:
        return ""
    names = list(rows[0])
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(row[name]))}</td>" for name in names) + "</tr>"
        for row in rows
    )
    return (
        f"<details><summary>{count(len(rows), 'captured site')}</summary>"
        "<div class='scroll' tabindex='0'>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def _script_json(value: Any) -> str:  # noqa: ANN401  anything JSON can hold
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _asset(name: str) -> str:
    return files("residuum.report").joinpath(name).read_text(encoding="utf-8")
