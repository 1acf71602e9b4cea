"""The page in headless Chromium: every chart is drawn, nothing is asked for, nothing complains."""

import pytest
from report import results
from report.browser import programs, started

from residuum.report import build

pytestmark = pytest.mark.skipif(
    programs() is None, reason="chromium and chromedriver are not installed"
)

DRAWN = "return document.querySelectorAll('[data-chart] svg.marks').length"
FRAMES = "return document.querySelectorAll('[data-chart]').length"
OVERFLOW = "return document.documentElement.scrollWidth - innerWidth"
WORDS = """return [...document.querySelectorAll('[data-chart="0"] svg text')]
    .map(text => text.textContent)"""
BACKGROUND = "return getComputedStyle(document.body).backgroundColor"
CHOOSE = """
const menu = document.querySelector(`[data-chart="0"] select[name=${NAME}]`);
menu.value = VALUE; menu.dispatchEvent(new Event("input")); menu.dispatchEvent(new Event("change"));
"""


@pytest.fixture(scope="module")
def browser():
    with started() as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a report with blanks")
    wide = [
        results.logit_lens(3, 30, 12),
        results.head_attribution(12, 12),
        results.attention_roles(12, 12),
        results.clusters(20),
    ]
    one = [
        results.logit_lens(1, 1, 1),
        results.head_attribution(1, 1),
        results.attention_roles(1, 1),
        results.clusters(1, tokens=False),
    ]
    made = {}
    for name, asked in {"wide": wide, "one": one}.items():
        made[name] = folder / f"{name}.html"
        made[name].write_text(build(results.CARD, asked), encoding="utf-8")
    return made


@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize("name", ["wide", "one"])
def test_everything_is_drawn_offline(browser, pages, name, width):
    browser.open(pages[name], width=width)
    assert browser.run(DRAWN) == browser.run(FRAMES) == 12
    assert browser.console() == []
    assert browser.requests() == [pages[name].resolve().as_uri()]
    assert browser.run(OVERFLOW) <= 0  # wide charts scroll in their own frames


def test_dark_pages_are_dark(browser, pages):
    browser.open(pages["one"], dark=True)
    assert browser.run(BACKGROUND) == "rgb(16, 21, 28)"
    assert browser.console() == []


def test_the_reader_chooses_example_and_colour(browser, pages):
    browser.open(pages["wide"])
    before = browser.run(WORDS)
    browser.run(CHOOSE.replace("${NAME}", "example").replace("VALUE", '"1"'))
    after = browser.run(WORDS)
    assert len(after) > len(before)  # the second example is a token longer
    browser.run(CHOOSE.replace("${NAME}", "measure").replace("VALUE", '"entropy"'))
    assert browser.run(WORDS) != after  # the legend counts nats now
    assert browser.console() == []
