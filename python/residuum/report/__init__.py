"""Results as one HTML page that works offline. Computes nothing, reads no store.

    build(StoreCard.of(store.info()), results)  ->  str
      card.py             what the store is: the head of the page
      sections.py         a result -> sections, by the module here that has the analysis' name
      charts.py, theme.py Vega-Lite charts through Altair, light and dark
      page.py             HTML and style around them, the chart library inlined once

Needs the `report` extra (altair, vl-convert-python).
"""

from residuum.report.card import StoreCard

try:
    from residuum.report.charts import Chart
    from residuum.report.page import build
    from residuum.report.sections import Section, sections
except ModuleNotFoundError as missing:
    if missing.name not in ("altair", "vl_convert"):
        raise
    message = f"reports need {missing.name}: pip install 'residuum[report]'"
    raise ModuleNotFoundError(message, name=missing.name) from missing

__all__ = ["Chart", "Section", "StoreCard", "build", "sections"]
