"""The index of reports in a real browser, and what becomes of reports past their time on a real S3."""

import json
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from perennial.lakehouse.decisions import Decision, record_decision
from perennial.lakehouse.lake import Lake
from perennial.story.publish import publish_story
from perennial.story.reports import expire_reports, folder_of, index_page, kept_files, publish_index
from tests.perennial.story.world import HOSTILE, START, WEEK, story

CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
def test_the_index_says_no_error_asks_for_nothing_else_and_finds_a_window(tmp_path: Path) -> None:
    where = tmp_path / "index.html"
    where.write_text(index_page(story(), "local", frozenset()))
    said: list[str] = []
    asked: list[str] = []
    with sync_playwright() as player:
        chromium = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = chromium.new_page(viewport={"width": 1400, "height": 900})
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(where.as_uri())
        assert opened.locator("#windows tbody tr").count() == 120
        opened.locator("#loud").check()
        loud = opened.locator("#windows tbody tr:visible").count()
        assert loud == sum(window.row["verdict"] != "hold" for window in story().windows)
        for width in (390, 1400):
            opened.set_viewport_size({"width": width, "height": 900})
            assert opened.evaluate("document.documentElement.scrollWidth") <= width
        chromium.close()
    assert said == []
    assert len([url for url in asked if not url.startswith("data:")]) == 1
    assert HOSTILE not in where.read_text()


def watched(lake: Lake, week: int) -> str:
    """A window of the pipeline `shop`, judged, with its files; returns the name of its page."""
    start, folder = START + week * WEEK, folder_of("shop")
    for ending in ("html", "json", "parquet"):
        lake.files().pipe_file(lake.uri(f"{folder}/week-{week}.{ending}"), b"seen")
    record_decision(
        lake,
        Decision(
            decision_id=f"week-{week}", pipeline="shop", kind="monitor", version=1, verdict="hold", reason="it holds",
            window_start=start, window_end=start + WEEK, as_of=start + WEEK,
            evidence=json.dumps({"report": f"{folder}/week-{week}.html"}),
        ),
    )  # fmt: skip
    return f"week-{week}.html"


def test_reports_past_their_time_go_and_their_windows_stay_in_index_and_story(lake: Lake) -> None:
    pages = [watched(lake, week) for week in range(3)]
    publish_index(lake, "shop")
    assert expire_reports(lake, "shop", START + 2 * WEEK) == [pages[0]]
    assert expire_reports(lake, "shop", START + 2 * WEEK) == []
    assert {name for name in kept_files(lake, "shop") if name.endswith(".parquet")} == {
        "week-1.parquet",
        "week-2.parquet",
    }

    publish_story(lake, "shop", None)
    index = lake.files().cat_file(lake.uri(f"{folder_of('shop')}/index.html")).decode()
    told = lake.files().cat_file(lake.uri("reports/shop/story.html")).decode()
    assert "3 windows, the reports of 2 are kept" in index
    for page, kept in zip(pages, (False, True, True), strict=True):
        assert (f'href="{page}"' in index) is kept
        assert (f'href="monitor/{page}"' in told) is kept
        assert page.removesuffix(".html") in index
