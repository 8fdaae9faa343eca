"""Judge a version against the one that serves: whether it is better, whether it can be served, whether people agree.

challenger ─┐
            ├─► same newest labelled rows ─► in a replica's place ─► approved? ─► promote | reject | inconclusive
champion ───┘         quality                  infrastructure       if asked for           decision, event
"""

from datetime import datetime

from prefect import flow

from flows.clock import scheduled_start, utc
from flows.settings import Settings
from tasks.approval import approve
from tasks.card import show_card
from tasks.promotion import (
    find_champion,
    find_promotion,
    judge_infrastructure,
    judge_quality,
    record_promotion,
    record_rejection,
    show_promotion,
    tell_promotion,
)
from tasks.story import show_story


@flow(flow_run_name="promote-{pipeline}-v{version}")
def promote(pipeline: str, version: int, as_of: datetime | None = None, settings: Settings | None = None) -> str:
    """Return the verdict: promote, reject or inconclusive. It is recorded; `roll_out` is what lets a version serve.

    Args:
        as_of: labels known by then count; by default the run's scheduled start.
    """
    settings = settings or Settings()
    as_of = utc(as_of) if as_of else scheduled_start()
    champion = find_champion(settings.lake, pipeline)
    if champion and champion.version == version:
        return "promote"  # it serves already

    decision = find_promotion(settings.lake, pipeline, version, champion, as_of)
    if decision is None:
        place = (settings.lake, settings.pipelines_dir, pipeline)
        judged = judge_quality(settings.compute, *place, version, champion, as_of)
        judged = judge_infrastructure(settings.compute, settings.serve, *place, version, judged)
        judged = approve(settings.pipelines_dir, pipeline, version, judged)
        decision = record_promotion(*place, version, champion, as_of, judged)
    if decision.verdict == "reject":
        record_rejection(settings.lake, decision)
    tell_promotion(decision)
    show_promotion(decision)
    # a page that cannot be drawn is a failed task that people see; it holds up no promotion
    show_card(
        settings.compute,
        settings.lake,
        settings.pipelines_dir,
        pipeline,
        version,
        settings.reports_base,
        return_state=True,
    )
    show_story(settings.lake, pipeline, settings.reports_base, return_state=True)
    return decision.verdict
