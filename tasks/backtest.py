"""A backtest's effects: the history is replayed on Ray, and shown."""

from dataclasses import fields
from datetime import datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import polars as pl
from prefect import get_run_logger, task
from pydantic import TypeAdapter, ValidationError

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import current_snapshot_id, read_snapshot
from perennial.rules.recommend import BASELINES, Backtest
from perennial.rules.replay import Span, Strategy, cut_windows, usual_strategies
from perennial.spec import Monitoring, Window, load_pipeline
from tasks.compute import Compute, run_job
from tasks.telemetry import plain, report_url, show_link, show_markdown, show_table

FIRST_SHARE = 0.25  # of the history is known to the first model, where nobody says otherwise


class UnknownPolicy(ValueError):
    """A policy that was asked for does not say what it means; nothing was changed."""


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
    lag: timedelta,
    as_of: datetime,
) -> list[Span]:
    """The windows to replay that can be judged by `as_of`; without bounds, all after the first quarter of the history.

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
    last = min(end or as_of, as_of - lag)  # a window whose labels are still under way would be judged anew in each run
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


@task
def plan_strategies(pipelines: Path, pipeline: str, policies: dict[str, dict[str, Any]]) -> list[Strategy]:
    """The usual policies and the user's: fields of `Monitoring` that differ from the pipeline's own.

    Raises:
        UnknownPolicy: a policy has the name of another, a field that there is not, or a value that cannot be.
    """
    own = load_pipeline(pipeline, pipelines).monitoring
    found = usual_strategies(own)
    taken = {strategy.name for strategy in found} | set(BASELINES)
    for name, changed in policies.items():
        mistakes = [f"there is one of this name already ({', '.join(sorted(taken))})."] if name in taken else []
        mistakes += _unknown_fields(changed)
        policy = own
        if not mistakes:
            policy, mistakes = _with(own, changed)
        if mistakes:
            raise UnknownPolicy(f"policy {name!r} cannot be replayed: {' '.join(mistakes)} Nothing was changed.")
        said = ", ".join(f"{field} = {value}" for field, value in changed.items())
        found.append(Strategy(name=name, says=f"the pipeline's own with {said}", monitoring=policy))
    return found


def _unknown_fields(changed: dict[str, Any]) -> list[str]:
    """Pydantic passes over names that a dataclass does not have: a misspelt policy would be the pipeline's own."""
    window = changed.get("window")
    asked: list[tuple[str, str, type[Any]]] = [(name, "", Monitoring) for name in changed]
    asked += [(name, "window.", Window) for name in window] if isinstance(window, dict) else []
    found = []
    for name, prefix, of in asked:
        there = [field.name for field in fields(of)]
        if name not in there:
            like = get_close_matches(name, there, 1)
            hint = f"; did you mean {prefix}{like[0]}?" if like else f"; there are {', '.join(there)}."
            found.append(f"there is no field {prefix}{name}{hint}")
    return found


def _with(own: Monitoring, changed: dict[str, Any]) -> tuple[Monitoring, list[str]]:
    adapter = TypeAdapter(Monitoring)
    try:
        policy = adapter.validate_python(adapter.dump_python(own) | changed)
    except ValidationError as error:
        wrong = [(".".join(map(str, each["loc"])), each["input"], each["msg"]) for each in error.errors()]
        return own, [f"{where} is {value!r}: {said}." for where, value, said in wrong]
    return policy, [said for said, _ in policy.mistakes()]


@task(timeout_seconds=6 * 3600)
def replay_history(
    compute: Compute,
    lake: Lake,
    pipelines: Path,
    pipeline: str,
    windows: list[Span],
    lag: timedelta,
    strategies: list[Strategy],
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
        strategies=strategies,
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
