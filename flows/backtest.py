"""Replay a pipeline's history under several policies: what each would have won and cost, and which to take.

features (as known) ─► windows ─► per policy: monitor ─► train ─► promote, as of then (Ray) ─► account ─► recommendation
"""

from datetime import datetime, timedelta
from typing import Any

from prefect import flow

from flows.build_features import build_features
from flows.clock import scheduled_start, utc
from flows.settings import Settings
from tasks.backtest import plan_strategies, plan_windows, replay_history, show_backtest


@flow(flow_run_name="backtest-{pipeline}")
def backtest(
    pipeline: str,
    start: datetime | None = None,
    end: datetime | None = None,
    every: str = "1mo",
    lag_hours: float = 0.0,
    policies: dict[str, dict[str, Any]] | None = None,
    as_of: datetime | None = None,
    settings: Settings | None = None,
) -> str:
    """Return the name of the recommended policy. Nothing that serves is touched; running it again costs little.

    Args:
        start: the first window begins here, and the first model is trained with what was known by then; by default after
            a quarter of the history.
        end: windows end by then; by default `as_of`, and at the latest `lag_hours` before it.
        every: length of a window: `1mo`, `7d`, `12h`.
        lag_hours: how long after its end a window is judged, so that labels can arrive.
        policies: further policies by name: the fields of `Monitoring` in which they differ from the pipeline's own, such
            as `{"patient": {"alarms": 3, "of_windows": 4}}`.
        as_of: rows and labels known by then count; by default the run's scheduled start.
    """
    settings = settings or Settings()
    as_of = utc(as_of) if as_of else scheduled_start()
    place = (settings.lake, settings.pipelines_dir, pipeline)

    strategies = plan_strategies(settings.pipelines_dir, pipeline, policies or {})
    build_features(pipeline, as_of, settings)
    lag = timedelta(hours=lag_hours)
    windows = plan_windows(*place, start and utc(start), end and utc(end), every, lag, as_of)
    replayed = replay_history(settings.compute, *place, windows, lag, strategies, as_of)
    show_backtest(settings.lake, replayed, settings.reports_base)
    return replayed.recommendation.name
