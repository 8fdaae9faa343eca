"""The page in a real browser, served under the policy of the local stack's report server."""

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from deployments.stack.parts import REPORTS_POLICY
from perennial.datadocs.card import card_page
from perennial.datadocs.page import index_page
from tests.perennial.datadocs import features_world
from tests.perennial.datadocs.card_world import card
from tests.perennial.datadocs.world import ORIGIN, batch_rows, page

CARDS = ("binary", "multiclass", "regression")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")


class Reports(SimpleHTTPRequestHandler):
    """A folder, with the header that the report server sends."""

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", REPORTS_POLICY)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page of 200 columns and 120 batches, and its index, are served."""
    folder: Path = tmp_path_factory.mktemp("reports")
    (folder / "readings.html").write_text(page(batches=120, columns=200))
    (folder / "index.html").write_text(index_page(ORIGIN, {"readings": batch_rows(30, 3), "planes": batch_rows(0, 3)}))
    for task in CARDS:
        (folder / f"card-{task}.html").write_text(card_page(card(task)))
    (folder / "features.html").write_text(features_world.page())
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Reports, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as player:
        chromium = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visit:
    """A page that was opened, with all that the browser said and asked for."""

    def __init__(self, browser: Browser, url: str, width: int = 1400) -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900})
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)

    def rows(self, section: str) -> int:
        return self.page.locator(f"#{section} tbody tr:visible").count()


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("name", ["readings", "index", "features", *(f"card-{task}" for task in CARDS)])
def test_a_page_says_no_error_asks_for_nothing_else_and_fits_the_window(
    browser: Browser, address: str, name: str, width: int
) -> None:
    visit = Visit(browser, f"{address}/{name}.html", width)
    assert visit.said == []
    assert [url for url in visit.asked if not url.startswith("data:")] == [f"{address}/{name}.html"]
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_filter_leaves_what_has_all_words_and_escape_brings_the_rest_back(browser: Browser, address: str) -> None:
    visit = Visit(browser, f"{address}/readings.html")
    assert (visit.rows("checks"), visit.rows("columns"), visit.rows("batches")) == (203, 200, 120)
    visit.page.keyboard.press("/")
    visit.page.keyboard.type("SENSOR_01 reading")
    assert visit.rows("columns") == 10
    assert visit.page.locator("#columns h2 small").inner_text() == "10 of 200"
    visit.page.keyboard.press("Escape")
    assert visit.rows("columns") == 200


def test_only_problems_leaves_no_quiet_row(browser: Browser, address: str) -> None:
    visit = Visit(browser, f"{address}/readings.html")
    visit.page.get_by_label("only problems").check()
    assert 0 < visit.rows("columns") < 200
    assert visit.page.locator("tbody tr[data-quiet]:visible").count() == 0


def test_a_bar_tells_its_batch_and_a_click_leads_to_its_row(browser: Browser, address: str) -> None:
    visit = Visit(browser, f"{address}/readings.html")
    rows = batch_rows().to_dicts()
    plot = visit.page.locator("#arrived svg").first
    area = plot.bounding_box()
    assert area
    plot.hover(position={"x": area["width"] * 40.5 / 120, "y": 20})
    tip = visit.page.locator("#tip").inner_text()
    assert tip.splitlines() == [
        f"{rows[40]['rows']:,} rows, {rows[40]['quarantined_rows']:,} quarantined",
        "refused 2026-09-04 06:02",
        rows[40]["batch_id"],
    ]
    plot.click(position={"x": area["width"] * 40.5 / 120, "y": 20})
    assert visit.page.evaluate("document.querySelector(':target').id") == f"b-{rows[40]['batch_id']}"


def test_the_plots_are_read_with_the_keyboard(browser: Browser, address: str) -> None:
    visit = Visit(browser, f"{address}/readings.html")
    rows = batch_rows().to_dicts()
    visit.page.locator("#columns svg[tabindex='0']").focus()
    visit.page.keyboard.press("ArrowDown")
    visit.page.keyboard.press("ArrowLeft")
    assert visit.page.locator("#tip").inner_text().endswith(rows[-2]["batch_id"])
    visit.page.keyboard.press("Enter")
    assert visit.page.evaluate("location.hash") == f"#b-{rows[-2]['batch_id']}"
    assert visit.page.locator("#columns svg[tabindex='0']").count() == 1
