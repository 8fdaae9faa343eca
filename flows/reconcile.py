"""Start what an event should have started: the decisions are the truth, events only wake.

decisions to retrain ─► without an end? ─┬─► no run:   start one
                                         └─► run died: start it again
pages without a notice ─► tell them again
open trials without a run of roll_out ─► start it again, where it ended
"""

from datetime import timedelta

from prefect import flow

from flows.settings import Settings
from tasks.decisions import find_due, find_untold, start_retrain
from tasks.notices import event_of, tell_verdict
from tasks.trials import find_abandoned, start_rollout


@flow
def reconcile(grace_seconds: int = 60, settings: Settings | None = None) -> dict[str, str]:
    """Return what was done per decision and trial. Running it again starts nothing twice.

    Args:
        grace_seconds: how long an event may take before its decision counts as forgotten.
    """
    settings = settings or Settings()
    due = find_due(settings.lake, timedelta(seconds=grace_seconds))
    done = {decision.decision_id: start_retrain(settings.lake, decision) for decision in due}
    untold = find_untold(settings.lake, timedelta(seconds=grace_seconds))
    for decision in (decision for decision in untold if event_of(decision) is not None):
        tell_verdict(settings.lake, decision)
        done[decision.decision_id] = "told"
    abandoned = find_abandoned(settings.lake, settings.pipelines_dir, timedelta(seconds=grace_seconds))
    return done | {trial.rollout: start_rollout(settings.lake, trial) for trial in abandoned}
