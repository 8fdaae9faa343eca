"""Judge a version against the one that serves, on labelled rows that neither was trained on.

challenger ─┐
            ├─► same newest labelled rows (Ray) ─► promote | reject | inconclusive ─► decision
champion ───┘
"""

from datetime import datetime

from prefect import flow

from flows.clock import scheduled_start, utc
from flows.settings import Settings
from tasks.promotion import (
    find_champion,
    find_promotion,
    judge_challenger,
    record_promotion,
    record_rejection,
    show_promotion,
)


@flow(flow_run_name="promote-{pipeline}-v{version}")
def promote(pipeline: str, version: int, as_of: datetime | None = None, settings: Settings | None = None) -> str:
    """Return the verdict: promote, reject or inconclusive. It is recorded; `roll_out` is what lets a version serve.

    Args:
        as_of: labels known by then count; by default the run's scheduled start.
    """
    settings = settings or Settings()
    as_of = utc(as_of) if as_of else scheduled_start()
    champion = find_champion(settings.lake, pipeline)
    if champion == version:
        return "promote"  # it serves already

    decision = find_promotion(settings.lake, pipeline, version, champion, as_of)
    if decision is None:
        place = (settings.lake, settings.pipelines_dir, pipeline)
        judged = judge_challenger(settings.compute, *place, version, champion, as_of)
        decision = record_promotion(*place, version, champion, as_of, judged)
    if decision.verdict == "reject":
        record_rejection(settings.lake, decision)
    show_promotion(decision)
    return decision.verdict
