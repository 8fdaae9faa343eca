"""A backtest's page in a real browser, with policies and reasons that attack it."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from perennial.rules.recommend import Backtest, recommend, settle
from perennial.rules.replay import Course, Step, cut_windows, usual_strategies
from perennial.spec import Monitoring
from perennial.story.backtest import backtest_page
from tests.perennial.story.world import HOSTILE

CHROMIUM = shutil.which("chromium")
START = datetime(2026, 1, 5, tzinfo=UTC)
WINDOWS = cut_windows(START, START + timedelta(days=7 * 120), "7d")


def replayed() -> Backtest:
    courses, by_window = [], {}
    for number, strategy in enumerate(usual_strategies(Monitoring())):
        renamed = strategy.model_copy(update={"name": HOSTILE, "says": HOSTILE}) if number == 2 else strategy
        steps = [
            Step(window=w, at=w.end, model="m", verdict="retrain", reason=HOSTILE, trained="m", ended="promoted")
            if number and at % (9 * number) == 8
            else Step(window=w, at=w.end, model="m", verdict="hold", reason="as promised")
            for at, w in enumerate(WINDOWS)
        ]
        courses.append(Course(strategy=renamed, reigns=[(START, "m")], steps=steps, seconds=10.0 * number))
        by_window[renamed.name] = [0.7 + 0.01 * number - 0.0005 * (at % 50) for at in range(len(WINDOWS))]
    by_window["majority"] = [0.5] * len(WINDOWS)
    best = [0.8] * len(WINDOWS)
    accounts = settle("roc_auc", courses, by_window, best)
    return Backtest(
        pipeline="shop", metric="roc_auc", windows=WINDOWS, bootstrap=START, lag=timedelta(0), as_of=WINDOWS[-1].end,
        courses=courses, accounts=accounts, best=best, recommendation=recommend("roc_auc", accounts),
        folder="backtests/shop/x", worked=3,
    )  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
def test_the_page_says_no_error_asks_for_nothing_else_and_shows_every_policy_and_decision(tmp_path: Path) -> None:
    found = replayed()
    (tmp_path / "backtest.html").write_text(backtest_page(found, "local", "x.json"))
    said: list[str] = []
    asked: list[str] = []
    with sync_playwright() as player:
        chromium = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = chromium.new_page(viewport={"width": 1400, "height": 900})
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto((tmp_path / "backtest.html").as_uri())
        assert opened.locator("#policies tbody tr").count() == len(found.accounts)
        assert opened.locator("#events tbody tr").count() == 120 * len(found.courses)
        assert opened.locator("#now").inner_text().startswith(f"Take {found.recommendation.name}")
        assert opened.locator("svg.timeline .line").count() == len(found.accounts)
        for width in (390, 1400):
            opened.set_viewport_size({"width": width, "height": 900})
            assert opened.evaluate("document.documentElement.scrollWidth") <= width
        chromium.close()
    assert said == []
    assert len([url for url in asked if not url.startswith("data:")]) == 1
