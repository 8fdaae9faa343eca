"""Which windows a monitoring run looks at, and whom each is about."""

from datetime import datetime
from pathlib import Path

import polars as pl
from prefect import get_run_logger, task
from pydantic import BaseModel

from perennial.lakehouse.decisions import read_decisions
from perennial.lakehouse.lake import Lake
from perennial.rules.past import Past, read_past
from perennial.rules.watched import Stretch, could_reopen, window_at
from perennial.rules.watched import reopened as reopened_windows
from perennial.spec import load_pipeline


class Subject(BaseModel, frozen=True):
    """Who is watched: the champion that answered last in the window, and who serves by now."""

    version: int
    champion: int | None


class Late(BaseModel, frozen=True):
    """A window that late labels reopen, whom it is about, and how often they have by now."""

    subject: Subject
    window: Stretch
    times: int


@task
def find_window(
    lake: Lake, pipelines: Path, pipeline: str, start: datetime | None, end: datetime | None, as_of: datetime
) -> Stretch:
    """The window that is asked for, or that the pipeline's policy says of this moment.

    Raises:
        ValueError: it would end before it begins.
    """
    from perennial.lakehouse.stages import champion_stage
    from ray_jobs.drift.window import oldest_of_last

    declared = load_pipeline(pipeline, pipelines)
    moment, policy = end or as_of, declared.monitoring.window
    if start is None:
        serving = champion_stage(lake, pipeline, moment)
        oldest = oldest_of_last(lake, declared, moment, policy.rows) if policy.by == "rows" else None
        found = window_at(policy, moment, serving.as_of if serving else None, oldest)
        return Stretch(found.start, end or found.end)
    if start >= moment:
        raise ValueError(f"the window from {start} to {moment} is empty: it ends before it begins. Nothing was judged.")
    return Stretch(start, moment)


@task
def find_reopened(lake: Lake, pipelines: Path, pipeline: str, window: Stretch, as_of: datetime) -> list[Late]:
    """The windows before this one of which enough rows got their label since they were looked at last."""
    from perennial.lakehouse.stages import champion_stage
    from ray_jobs.drift.window import count_labelled

    declared = load_pipeline(pipeline, pipelines)
    policy, past = declared.monitoring, read_pipeline_past(lake, pipeline, as_of)
    waiting = could_reopen(past, policy, window)
    if not waiting:
        return []
    labelled = count_labelled(lake, declared, [(w.evidence.version, w.start, w.end) for w in waiting], as_of)
    serving = champion_stage(lake, pipeline, as_of)
    found = reopened_windows(past, waiting, labelled, policy, as_of)
    counts = dict(zip((w.decision_id for w in waiting), labelled, strict=True))
    for late in found:
        get_run_logger().info("%s is judged again: %s labels by now", late.decision_id, f"{counts[late.decision_id]:,}")
    champion = serving.version if serving else None
    return [
        Late(
            subject=Subject(version=w.evidence.version, champion=champion),
            window=Stretch(w.start, w.end),
            times=w.late + 1,
        )
        for w in found
    ]


@task
def pick_version(lake: Lake, pipelines: Path, pipeline: str, window: Stretch, as_of: datetime) -> Subject | None:
    """Whom the window is about: a rerun after a promotion still finds the version that answered it.

    None: no version ever served, so there is nothing to watch.
    """
    from perennial.lakehouse.stages import champion_stage
    from ray_jobs.drift.window import last_version

    serving = champion_stage(lake, pipeline, as_of)
    champion = serving.version if serving else None
    version = last_version(lake, load_pipeline(pipeline, pipelines), *window) or champion
    if version is None:
        get_run_logger().info("no version of %s has ever served: nothing to watch", pipeline)
        return None
    return Subject(version=version, champion=champion)


def read_pipeline_past(lake: Lake, pipeline: str, moment: datetime) -> Past:
    """What the pipeline had been through by a moment, from the table of decisions."""
    # Later rows go before they are read: a window that was reopened since is then known as it was judged first.
    return read_past(read_decisions(lake, pipeline).filter(pl.col("as_of") <= moment).iter_rows(named=True))
