"""Start what an event should have started: the decisions are the truth, events only wake.

decisions to retrain ─► without an end? ─┬─► no run:   start one
                                         ├─► run died: start it again
                                         └─► cancelled, died three times, ...: record it as failed, and tell it
pages and ends of retrains without a notice ─► tell them again
open trials without a run of roll_out ─► start it again, where it ended
"""

from datetime import timedelta
from typing import Any

from prefect import State, flow

from flows.settings import Settings
from tasks.decisions import find_due, find_untold, start_retrain
from tasks.notices import event_of, tell_verdict
from tasks.trials import find_abandoned, start_rollout


@flow
def reconcile(grace_seconds: int = 60, settings: Settings | None = None) -> dict[str, str | None]:
    """Return what was done per decision and trial. Running it again starts nothing twice.

    What cannot be started keeps nothing else from its start, and fails the run at its end.

    Args:
        grace_seconds: how long an event may take before its decision counts as forgotten.
    """
    settings = settings or Settings()
    lake, grace = settings.lake, timedelta(seconds=grace_seconds)
    states: dict[str, State[Any]] = {}
    for due in find_due(lake, grace):
        states[due.decision_id] = start_retrain(lake, due, return_state=True)
    for decision in find_untold(lake, grace):
        if event_of(decision) is not None:
            states[decision.decision_id] = tell_verdict(lake, decision, return_state=True)
    for trial in find_abandoned(lake, settings.pipelines_dir, grace):
        states[trial.rollout] = start_rollout(lake, trial, return_state=True)
    return {name: state.result() for name, state in states.items()}
