"""Let a promoted version serve, step by step, without dropping a request; or leave the champion serving and say why.

approved? ─► replay ─► shadow ─► canary ... ─► champion in the registry ─► replicas swap ─┬─► rolled_out
               └──────────┴────────┴── an alarm rings ──────────────────────────────────┴─► rolled_back
"""

from datetime import datetime

from prefect import flow

from flows.clock import scheduled_start, utc
from flows.settings import Settings
from tasks.card import redraw_cards
from tasks.rollback import record_withdrawal, return_to_former, tell_rolled_back, withdraw
from tasks.rollout import show_rollout, try_step
from tasks.rollout_plan import plan_rollout
from tasks.serving import RolledBack, check_approval, crown, record_rollout, roll_endpoint


@flow(flow_run_name="roll-out-{pipeline}-v{version}")
def roll_out(pipeline: str, version: int, as_of: datetime | None = None, settings: Settings | None = None) -> int:
    """Return the generation under which the version serves. Running it again goes on where it ended.

    Raises:
        NotApproved: no promotion was decided for the version; nothing was changed.
        RolloutRefused: another version is being rolled out, or took over meanwhile; nothing was changed.
        RolledBack: an alarm rang, a replica refused it or none could start with it; the former champion serves.
    """
    settings = settings or Settings()
    as_of = utc(as_of) if as_of else scheduled_start()
    place = (settings.compute, settings.serve, settings.lake, settings.pipelines_dir)

    reason = check_approval(settings.lake, pipeline, version)
    plan = plan_rollout(settings.lake, settings.pipelines_dir, pipeline, version, as_of, reason)
    failure, results = plan.rolled_back, []
    for stage, share in plan.steps:
        results.append(try_step(*place, plan, stage, share, as_of))
        show_rollout(pipeline, version, plan, results)
        if results[-1].verdict == "roll_back":
            failure = results[-1].reason
            break
    if failure:
        decision = record_withdrawal(settings.lake, settings.pipelines_dir, plan, as_of, failure)
        withdraw(*place, plan, as_of, decision.reason)
        tell_rolled_back(decision)
        redraw_cards(settings.lake, pipeline, [version], settings.reports_base, return_state=True)
        raise RolledBack(pipeline, version, plan.champion, decision.reason)

    step = crown(settings.lake, pipeline, version, as_of, reason, plan.trial)
    report = roll_endpoint(*place, step)
    if report.failure:
        tell_rolled_back(return_to_former(settings.lake, step, as_of, report.failure))
        redraw_cards(settings.lake, pipeline, [version, step.former], settings.reports_base, return_state=True)
        raise RolledBack(pipeline, version, step.former, report.failure)
    record_rollout(settings.lake, step, as_of, report, plan.reason or ", ".join(result.step for result in results))
    redraw_cards(settings.lake, pipeline, [version, step.former], settings.reports_base, return_state=True)
    return step.stage.generation
