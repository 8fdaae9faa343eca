"""A retrain without the training: it claims, works for a moment, and records its end, as `flows/retrain.py` does.

Deployed under the name, trigger and limits of the real one; what is tried is who may begin, not what is learned.
"""

import time

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.settings import Settings
from perennial.lakehouse.decisions import record_decision
from tasks.decisions import claim_retrain

WORK_SECONDS = 0.5


@flow(name="retrain")
def retrain(pipeline: str, decision_id: str) -> str | State[str]:
    """Claim, work, record; a second claimant ends at once."""
    lake = Settings().lake
    decision = claim_retrain(lake, decision_id)
    if decision is None:
        return Completed(message="already claimed", data="already claimed")
    time.sleep(WORK_SECONDS)
    end = {
        "kind": "retrain",
        "verdict": "rejected",
        "version": 1,
        "run_id": str(flow_run.get_id() or ""),
        "reason": "a stand-in",
    }
    record_decision(lake, decision.model_copy(update=end))
    return "rejected"
