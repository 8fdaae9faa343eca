"""Ask a person: the run stands still in Prefect's UI until somebody answers a form, or the time for it is over."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Running
from pydantic import Field

from perennial.rules.contest import PromotionVerdict
from perennial.spec import load_pipeline
from tasks.telemetry import plain

if TYPE_CHECKING:
    from ray_jobs.train.judge import Judged

POLL_SECONDS = 5


class Approval(RunInput):
    """What the form asks."""

    approve: bool = Field(description="Whether this version may serve. No is a rejection.")
    by: str = Field(min_length=1, max_length=200, description="Who says so.")
    comment: str = Field("", max_length=2000, description="Why; it is kept with the decision.")


def approve(pipelines: Path, pipeline: str, version: int, judged: "Judged") -> "Judged":
    """What was judged, after somebody has approved it where the pipeline asks for that and there is something to approve."""
    within = load_pipeline(pipeline, pipelines).promotion.approval
    if within is None or judged.verdict.verdict != "promote":
        return judged
    return judged.model_copy(update={"verdict": ask_for_approval(judged.verdict, pipeline, version, within)})


def ask_for_approval(verdict: PromotionVerdict, pipeline: str, version: int, within: timedelta) -> PromotionVerdict:
    """The verdict after somebody has answered; the flow run is paused until then. Nobody answering in time is a rejection.

    To be called in a flow: it is the flow that stands still. A run that dies while it waits asks again when it is rerun.
    """
    log, seconds = get_run_logger(), max(2, round(within.total_seconds()))
    log.info("version %d of %s waits for approval in Prefect's UI, for %s", version, pipeline, within)
    question = (
        f"## May version {version} of {pipeline} serve?\n\nBoth gates are passed: {plain(verdict.reason)}.\n\n"
        f"Nobody answering within {within} is a rejection."
    )
    form = Approval.with_initial_data(description=question)
    try:
        answer = pause_flow_run(wait_for_input=form, timeout=seconds, poll_interval=min(POLL_SECONDS, seconds))
    except FlowPauseTimeout:
        _go_on()
        log.warning("nobody approved version %d of %s within %s", version, pipeline, within)
        return _settled(verdict, "reject", "not_answered", f"nobody approved it within {within}; {verdict.reason}")
    said = {"approved_by": answer.by, "comment": answer.comment}
    note = f" ({answer.comment})" if answer.comment else ""
    if answer.approve:
        return _settled(verdict, "promote", "approved", f"{verdict.reason}; approved by {answer.by}{note}", said)
    return _settled(verdict, "reject", "declined", f"declined by {answer.by}{note}; {verdict.reason}", said)


def _settled(
    verdict: PromotionVerdict, settled: str, answer: str, reason: str, said: dict[str, str] | None = None
) -> PromotionVerdict:
    gates = {"gates": verdict.answer, "approval": answer, **(said or {})}
    return PromotionVerdict(
        verdict=settled,
        answer=answer,
        reason=reason,
        evidence=verdict.evidence | gates,
    )


def _go_on() -> None:
    """Take the run out of its pause, whose time is over: the server would let it end only as failed."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, Running(message="the time to approve is over"), force=True)
