"""The flow over a small history: the user's policy stands beside the usual ones, and a rerun of later costs nothing."""

import json
from datetime import timedelta

import polars as pl

from flows.backtest import backtest
from flows.settings import Settings
from perennial.rules.recommend import Backtest
from perennial.spec import load_pipeline
from tests.ray_jobs.backtest.world import DAY, START, WEEK, offers, remember, write_offers


def test_a_users_policy_is_replayed_beside_the_usual_ones(settings: Settings) -> None:
    write_offers(settings.pipelines_dir)
    lake, pipeline = settings.lake, load_pipeline("offers", settings.pipelines_dir)
    rows = offers().filter(pl.col("made_at") < START + 6 * WEEK)
    made = rows.select("offer_id", "made_at", "price", "colour", _known_at="made_at")
    remember(lake, pipeline, "offers", made, "offers")
    remember(
        lake, pipeline, "outcomes", rows.select("offer_id", "answered_at", "taken", _known_at="answered_at"), "all"
    )

    def ask(as_of: timedelta) -> Backtest:
        backtest(
            "offers", start=START + 4 * WEEK, every="14d", lag_hours=24,
            policies={"patient": {"alarms": 3, "of_windows": 4}}, as_of=START + as_of, settings=settings,
        )  # fmt: skip
        (page,) = lake.files().glob(f"{lake.uri('reports/offers/backtest')}/*.json")
        return Backtest.model_validate(json.loads(lake.files().cat_file(page)))

    found = ask(6 * WEEK + DAY)
    assert len(found.windows) == 1
    patient = next(course.strategy for course in found.courses if course.strategy.name == "patient")
    assert patient.says == "the pipeline's own with alarms = 3, of_windows = 4"
    assert found.worked > 0
    assert "patient" in {account.name for account in found.accounts}
    assert ask(6 * WEEK + 2 * DAY).worked == 0
