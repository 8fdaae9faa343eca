"""The real code over a small history: real training, real evidence, a real lake; Ray where it says so."""

import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from perennial.lakehouse.lake import Lake
from perennial.rules.evidence import Evidence
from perennial.rules.recommend import Backtest
from perennial.rules.replay import Course, Step, Strategy, cut_windows, usual_strategies
from perennial.spec import load_pipeline
from ray_jobs.backtest.request import BacktestRequest
from ray_jobs.backtest.run import UnfitForBacktest, backtest
from tests.conftest import ROOT, S3, empty_lake
from tests.ray_jobs.backtest.world import DAY, START, TURNS, WEEK, WEEKS, fill, later, offers, remember, write_offers

WINDOWS = cut_windows(START + 4 * WEEK, START + WEEKS * WEEK, "7d")
AS_OF = START + (WEEKS + 1) * WEEK


@dataclass
class Replayed:
    """A backtest, and how to ask for it again."""

    request: BacktestRequest
    found: Backtest

    def course(self, name: str) -> Course:
        return next(course for course in self.found.courses if course.strategy.name == name)


def ask(lake: Lake, pipelines: Path, snapshot: int, *names: str) -> BacktestRequest:
    own = load_pipeline("offers", pipelines).monitoring
    strategies = [strategy for strategy in usual_strategies(own) if strategy.name in names]
    return BacktestRequest(
        lake=lake, pipelines=pipelines, pipeline="offers", snapshot_id=snapshot, windows=WINDOWS,
        bootstrap=WINDOWS[0].start, lag=DAY, as_of=AS_OF, strategies=strategies,
    )  # fmt: skip


@pytest.fixture(scope="module")
def replayed(s3: S3, ray_head: str, tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    home = tmp_path_factory.mktemp("backtest")
    lake, pipelines = empty_lake(s3, home), write_offers(home / "pipelines")
    request = ask(lake, pipelines, fill(lake, pipelines, offers()), "never", "every window", "own")
    return Replayed(request, backtest(request))


def test_the_loss_is_seen_and_answered_and_that_is_what_it_is_worth(replayed: Replayed) -> None:
    accounts = {account.name: account for account in replayed.found.accounts}
    own, never = accounts["own"], accounts["never"]
    assert own.mean is not None
    assert never.mean is not None
    assert own.mean > never.mean + 0.1
    assert 1 <= own.retrains < accounts["every window"].retrains == len(WINDOWS)
    first = next(step for step in replayed.course("own").steps if step.verdict == "retrain")
    assert first.window.start >= START + TURNS * WEEK
    assert replayed.found.recommendation.name != "never"
    assert not any("promised 0.000" in step.reason for course in replayed.found.courses for step in course.steps)


def test_the_lines_without_a_model_stand_beside_it(replayed: Replayed) -> None:
    accounts = {account.name: account for account in replayed.found.accounts}
    assert accounts["majority"].mean == pytest.approx(0.5)
    assert accounts["same as last label"].mean == pytest.approx(0.5, abs=0.06)


def test_asked_again_nothing_is_worked_out_again_and_the_answer_is_the_same(replayed: Replayed) -> None:
    again = backtest(replayed.request)
    assert again.worked == 0
    assert again.accounts == replayed.found.accounts


def test_a_run_of_later_with_rows_that_came_since_finds_nothing_out_again(replayed: Replayed) -> None:
    request = replayed.request
    snapshot = fill(request.lake, request.pipelines, later(offers()), "since")
    again = backtest(request.model_copy(update={"snapshot_id": snapshot, "as_of": AS_OF + WEEKS * WEEK}))
    assert again.worked == 0
    assert again.accounts == replayed.found.accounts


def test_a_label_that_a_decision_would_have_known_is_found_out_anew(
    replayed: Replayed, s3: S3, ray_head: str, tmp_path: Path
) -> None:
    lake, pipelines = empty_lake(s3, tmp_path), replayed.request.pipelines
    request = ask(lake, pipelines, fill(lake, pipelines, offers()), "never")
    assert backtest(request).worked == 1
    known = START + DAY
    corrected = offers().head(1).select("offer_id", "answered_at", ~pl.col("taken"), _known_at=pl.lit(known))
    remember(lake, load_pipeline("offers", pipelines), "outcomes", corrected, "a correction")
    assert backtest(request).worked == 1


def test_a_policy_looks_with_its_own_effect_size_and_sample(
    replayed: Replayed, s3: S3, ray_head: str, tmp_path: Path
) -> None:
    lake, pipelines = empty_lake(s3, tmp_path), replayed.request.pipelines
    own = load_pipeline("offers", pipelines).monitoring
    coarse = Strategy(name="coarse", says="", monitoring=replace(own, drift_effect_size=0.9, minimum_rows=10_000))
    request = ask(lake, pipelines, fill(lake, pipelines, offers()), "own")
    request = request.model_copy(update={"strategies": [*request.strategies, coarse], "windows": WINDOWS[:1]})
    found = backtest(request)
    files = lake.files()
    looks = files.glob(f"{lake.uri(found.folder)}/look-*.json")
    seen = [Evidence.model_validate_json(files.cat_file(path)) for path in looks]
    fine, rough = sorted(evidence.drift_bounds["price"] for evidence in seen)
    assert rough - fine == pytest.approx(0.9 - own.drift_effect_size)
    assert all(evidence.estimate for evidence in seen)


def test_a_backtest_that_was_killed_goes_on_with_what_was_found_out(
    replayed: Replayed, s3: S3, ray_head: str, tmp_path: Path
) -> None:
    lake, pipelines = empty_lake(s3, tmp_path), replayed.request.pipelines
    request = ask(lake, pipelines, fill(lake, pipelines, offers()), "own")
    code = (
        "import sys, ray\nfrom ray_jobs.backtest.run import backtest, BacktestRequest\n"
        "ray.init(address=sys.argv[1])\nbacktest(BacktestRequest.model_validate_json(sys.argv[2]))"
    )
    words = [sys.executable, "-c", code, ray_head, request.model_dump_json()]
    victim = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=(tmp_path / "log").open("w"))
    before = results(lake)
    try:
        while not before:
            assert victim.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
            before = results(lake)
    finally:
        victim.kill()
        victim.wait()
    again = backtest(request)
    assert 0 < again.worked <= len(results(lake)) - len(before)
    assert again.courses[0].steps == replayed.course("own").steps


def results(lake: Lake) -> list[str]:
    files = lake.files()
    files.invalidate_cache()
    return list(files.glob(f"{lake.uri('backtests/offers')}/*/*.json"))


def test_no_row_and_no_label_of_later_enters_a_decision(
    replayed: Replayed, s3: S3, ray_head: str, tmp_path: Path
) -> None:
    """Everything known after a moment is turned around: what was decided by that moment stays, to the last figure."""
    moment = WINDOWS[2].end + DAY
    planted = offers().with_columns(
        taken=pl.when(pl.col("answered_at") > moment).then(~pl.col("taken")).otherwise(pl.col("taken")),
        price=pl.when(pl.col("made_at") > moment).then(-pl.col("price")).otherwise(pl.col("price")),
    )
    lake = empty_lake(s3, tmp_path)
    other = backtest(ask(lake, replayed.request.pipelines, fill(lake, replayed.request.pipelines, planted), "own"))

    def decided(steps: list[Step]) -> list[tuple[object, ...]]:
        return [(s.window, s.verdict, s.reason, s.model, s.ended) for s in steps if s.at <= moment]

    steps = other.courses[0].steps
    assert len(decided(steps)) == 3
    assert decided(steps) == decided(replayed.course("own").steps)
    assert steps != replayed.course("own").steps


def test_a_history_without_enough_labels_to_begin_is_refused_in_words(replayed: Replayed) -> None:
    early = replayed.request.model_copy(update={"bootstrap": START + timedelta(hours=1)})
    with pytest.raises(UnfitForBacktest, match=r"first model of offers.*labelled rows.*Begin the backtest later"):
        backtest(early)
