"""Colours and type of the charts, once for light and once for dark pages.

Charts name no colour: quantitative scales take `heatmap` (0 is the page's own tone, high values
stand out) or `diverging` (0 is the page's tone, blue below, orange above), so that one
specification fits both pages.
"""

from typing import Any

FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"

INK = {"light": "#1c2430", "dark": "#e4e8ee"}
SOFT = {"light": "#5b6675", "dark": "#9aa6b5"}
LINE = {"light": "#d9dee6", "dark": "#343d4a"}
HEATMAP = {
    "light": ["#f1f5fa", "#c3d9ee", "#7fb2d9", "#3a82ba", "#0e4f86", "#062f57"],
    "dark": ["#1d2632", "#1f4468", "#2a6da3", "#4f9bd0", "#93c8ec", "#dff1fd"],
}
DIVERGING = {
    "light": ["#08467f", "#5b9bcb", "#f4f5f7", "#ec8f4b", "#963a07"],
    "dark": ["#8cc8f5", "#2d6ea6", "#1f2733", "#b25d20", "#ffb37a"],
}
# Okabe and Ito's colours, told apart with any kind of colour vision; darker twins on white.
CATEGORY = {
    "light": ["#0072b2", "#d55e00", "#00805f", "#a8467f", "#8a6d00", "#3b8fc4", "#555555"],
    "dark": ["#56b4e9", "#e69f00", "#2fc79e", "#dd8fbd", "#f0e442", "#7aa7ff", "#bbbbbb"],
}


def config(mode: str) -> dict[str, Any]:
    """The Vega-Lite configuration of the `light` or `dark` page."""
    ink, soft, line = INK[mode], SOFT[mode], LINE[mode]
    text = {"labelColor": ink, "titleColor": ink, "labelFontSize": 12, "titleFontSize": 12}
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "range": {
            "heatmap": HEATMAP[mode],
            "ramp": HEATMAP[mode],
            "diverging": DIVERGING[mode],
            "category": CATEGORY[mode],
        },
        "axis": {
            **text,
            "titleFontWeight": 600,
            "titlePadding": 8,
            "gridColor": line,
            "domainColor": line,
            "tickColor": line,
            "labelLimit": 260,
        },
        "legend": {**text, "titleFontWeight": 600, "gradientThickness": 12, "labelLimit": 340},
        "title": {
            "color": ink,
            "subtitleColor": soft,
            "fontSize": 13,
            "anchor": "start",
            "offset": 8,
        },
        "mark": {"color": CATEGORY[mode][0]},
        "text": {"color": ink},
        "line": {"strokeWidth": 2},
        "rule": {"color": soft},
    }
