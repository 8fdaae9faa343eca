"""The story in a real browser, at 200 inputs and 120 windows, and what it tells against the rows it is made from."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.perennial.story.world import HOSTILE, page, story

CHROMIUM = shutil.which("chromium")
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, list[str], list[str]]]:
    """The opened page, what the browser said, and what it asked for."""
    where: Path = tmp_path_factory.mktemp("story") / "story.html"
    where.write_text(page())
    said: list[str] = []
    asked: list[str] = []
    with sync_playwright() as player:
        chromium = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = chromium.new_page(viewport={"width": 1400, "height": 900})
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(where.as_uri())
        yield opened, said, asked
        chromium.close()


@in_a_browser
def test_the_page_says_no_error_asks_for_nothing_else_and_fits_narrow_and_wide_windows(
    visit: tuple[Page, list[str], list[str]],
) -> None:
    opened, said, asked = visit
    assert said == []
    assert len([url for url in asked if not url.startswith("data:")]) == 1
    for width in (390, 1400):
        opened.set_viewport_size({"width": width, "height": 900})
        assert opened.evaluate("document.documentElement.scrollWidth") <= width


@in_a_browser
def test_every_window_and_input_has_its_row_and_every_mark_leads_to_one(
    visit: tuple[Page, list[str], list[str]],
) -> None:
    opened, _, _ = visit
    assert opened.locator("#windows tbody tr").count() == 120
    assert opened.locator("#columns tbody tr").count() == 200
    targets = opened.eval_on_selector_all(".timeline a", "links => links.map(a => a.getAttribute('href').slice(1))")
    assert len(targets) > 240
    assert [t for t in targets if opened.evaluate("id => document.getElementById(id) === null", t)] == []


@in_a_browser
def test_why_a_version_serves_is_answered_first_and_leads_to_its_rows(visit: tuple[Page, list[str], list[str]]) -> None:
    opened, _, _ = visit
    now = opened.locator("#now").inner_text()
    assert now.startswith("Version 5 serves since 2028-04-24")
    steps = opened.locator("#now li a").all_inner_texts()
    assert steps == [
        "verdict on version 4: retrain",
        "promotion of version 5: promote",
        "roll-out of version 5: rolled out",
    ]
    opened.locator("#now li a").first.click()
    assert opened.locator("tr:target").inner_text().startswith("2028-04-17")


def test_a_version_that_was_rejected_never_reigned() -> None:
    told = story()
    assert [reign.version for reign in told.reigns] == [1, 2, 4, 5]
    assert [(e.version, e.verdict) for e in told.events if e.kind == "promotion"][1] == (3, "reject")


def test_an_alarm_older_than_the_windows_that_are_shown_links_nothing_that_is_not_there() -> None:
    told = story(windows=160, features=3)
    assert min(e.at for e in told.events if e.kind == "monitor") < told.windows[0].row["window_start"]
    shown = page(windows=160, features=3)
    linked, there = set(re.findall(r'href="#([^"]+)"', shown)), re.findall(r'\bid="([^"]+)"', shown)
    assert linked - set(there) == set()
    assert len(there) == len(set(there))


def test_text_from_data_is_never_markup() -> None:
    assert HOSTILE not in page()
