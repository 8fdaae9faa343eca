"""Evidently's report in a real browser, served under the policy of the local stack's report server."""

import threading
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from perennial.lakehouse.lake import Lake
from ray_jobs.drift.page import save_static
from tests.perennial.datadocs.test_browser import CHROMIUM, Reports, Visit
from tests.ray_jobs.drift.test_report import judge, sample


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
def test_the_report_is_drawn_without_an_error_and_asks_for_nothing_outside(lake: Lake, tmp_path: Path) -> None:
    files = lake.files()
    save_static(lake, files)
    files.pipe_file(lake.uri("reports/rides/monitor/may.html"), judge(sample(shift=0.5)).page.encode())
    files.get(lake.uri("reports"), str(tmp_path / "reports"), recursive=True)
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), partial(Reports, directory=str(tmp_path / "reports"))) as server,
        sync_playwright() as player,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        visit = Visit(browser, f"{address}/rides/monitor/may.html")
        expect(visit.page.get_by_text("Dataset Drift").first).to_be_visible(timeout=20_000)
        visit.page.screenshot(path=tmp_path / "report.png")
        browser.close()
        server.shutdown()
    assert visit.said == []
    assert [url for url in visit.asked if not url.startswith((address, "data:", "blob:"))] == []
