"""A backtest's effects: the history is replayed on Ray, and shown."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from prefect import get_run_logger, task
from pydantic import TypeAdapter

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import current_snapshot_id, read_snapshot
from perennial.rules.recommend import Backtest
from perennial.rules.replay import Span, Strategy, cut_windows, usual_strategies
from perennial.spec import Monitoring, load_pipeline
from tasks.compute import Compute, run_job
from tasks.telemetry import plain, report_url, show_link, show_markdown, show_table

FIRST_SHARE = 0.25  # of the history is known to the first model, where nobody says otherwise


class NothingToReplay(ValueError):
    """There is no whole window in the history; nothing was changed."""


@task
def plan_windows(
    lake: Lake,
    pipelines: Path,
    pipeline: str,
    start: datetime | None,
    end: datetime | None,
    every: str,
    as_of: datetime,
) -> list[Span]:
    """The windows to replay; without bounds, all whole ones after the first quarter of the history.

    Raises:
        NothingToReplay: there is none.
    """
    event_time = load_pipeline(pipeline, pipelines).entity_source.event_time
    if event_time is None:
        raise NothingToReplay(
            f"the entity source of {pipeline} declares no event_time, so its history has no windows. Nothing was changed."
        )
    table = read_snapshot(lake, lake.table(pipeline, "features"), columns=[event_time])
    known = pl.Series(table.column(0)).drop_nulls().sort()
    if known.is_empty():
        raise NothingToReplay(f"the features of {pipeline} are empty. Nothing was changed. Run ingest first.")
    last = min(end or as_of, as_of)
    first: datetime = known[0]
    whole = cut_windows(first.replace(hour=0, minute=0, second=0, microsecond=0), last, every)
    earliest = start or known[int(len(known) * FIRST_SHARE)]
    windows = cut_windows(start, last, every) if start else [w for w in whole if w.start >= earliest]
    if not windows:
        raise NothingToReplay(
            f"between {earliest.isoformat()} and {last.isoformat()} lies no whole window of {every}. Nothing was changed. "
            "Name an earlier start, a later end, or a shorter window."
        )
    return windows


def plan_strategies(own: Monitoring, policies: dict[str, dict[str, Any]]) -> list[Strategy]:
    """The usual policies and the user's: fields of `Monitoring` that differ from the pipeline's own."""
    adapter = TypeAdapter(Monitoring)
    found = usual_strategies(own)
    for name, fields in policies.items():
        policy = adapter.validate_python(adapter.dump_python(own) | fields)
        mistakes = [said for said, _ in policy.mistakes()]
        if mistakes:
            raise ValueError(f"policy {name!r} cannot be replayed: {' '.join(mistakes)} Nothing was changed.")
        said = ", ".join(f"{field} = {value}" for field, value in fields.items())
        found.append(Strategy(name=name, says=f"the pipeline's own with {said}", monitoring=policy))
    return found


@task(timeout_seconds=6 * 3600)
def replay_history(
    compute: Compute,
    lake: Lake,
    pipelines: Path,
    pipeline: str,
    windows: list[Span],
    lag: timedelta,
    policies: dict[str, dict[str, Any]],
    as_of: datetime,
) -> Backtest:
    """Replay the history under every policy; what an earlier run found out is not found out again."""
    from ray_jobs.backtest.request import BacktestRequest
    from ray_jobs.backtest.run import backtest

    snapshot_id = current_snapshot_id(lake, lake.table(pipeline, "features"))
    assert snapshot_id is not None, "the windows were planned from it"
    request = BacktestRequest(
        lake=lake,
        pipelines=pipelines,
        pipeline=pipeline,
        snapshot_id=snapshot_id,
        windows=windows,
        bootstrap=windows[0].start,
        lag=lag,
        as_of=as_of,
        strategies=plan_strategies(load_pipeline(pipeline, pipelines).monitoring, policies),
    )
    return run_job(compute, backtest, request)


@task(timeout_seconds=600)
def show_backtest(lake: Lake, backtest: Backtest, reports_base_url: str) -> None:
    """Write the page, and show the account and the recommendation in the UI."""
    from perennial.story.backtest import sentence
    from perennial.story.publish import publish_backtest

    url = report_url(reports_base_url, publish_backtest(lake, backtest))
    get_run_logger().info("%s", sentence(backtest))
    show_table(
        f"backtest-{backtest.pipeline}",
        [
            {
                "policy": account.name,
                f"mean {backtest.metric}": None if account.mean is None else round(account.mean, 4),
                "retrains": account.retrains,
                "promoted": account.promoted,
                "pages": account.pages,
                "training seconds": round(account.seconds),
                "regret": None if account.regret is None else round(account.regret, 4),
            }
            for account in backtest.accounts
        ],
        description=sentence(backtest),
    )
    show_markdown(
        f"backtest-advice-{backtest.pipeline}",
        f"## Take {plain(backtest.recommendation.name)}\n\n{plain(backtest.recommendation.reason)}\n\n[The backtest]({url})\n",
        description=f"Which policy to take for {backtest.pipeline}",
    )
    show_link(
        f"backtest-page-{backtest.pipeline}",
        url,
        text=f"Backtest of {backtest.pipeline}",
        description=sentence(backtest),
    )
