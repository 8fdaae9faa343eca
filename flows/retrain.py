"""Act on a decision to retrain: once, however often the bell rings.

decision ─► claim ─► build_features ─► train ─► promote ─┬─► roll_out ─► promoted
                 └─► already claimed                     └─► rejected, inconclusive
"""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.build_features import build_features
from flows.promote import promote
from flows.roll_out import roll_out
from flows.settings import Settings
from flows.train import train
from tasks.decisions import claim_retrain, record_retrain


@flow(flow_run_name="retrain-{pipeline}")
def retrain(pipeline: str, decision_id: str, settings: Settings | None = None) -> str | State[str]:
    """Return how the retraining ended; the champion serves on until a better version has been rolled out.

    Everything is done as of the decision's moment, so starting the run again goes on where it ended.
    """
    settings = settings or Settings()
    decision = claim_retrain(settings.lake, decision_id)
    if decision is None:
        return Completed(message="already claimed", data="already claimed")
    build_features(pipeline, decision.as_of, settings)
    version = train(pipeline, decision.as_of, decision.reason, settings)
    verdict = promote(pipeline, version, decision.as_of, settings)
    if verdict == "promote":
        roll_out(pipeline, version, decision.as_of, settings)
    return record_retrain(settings.lake, decision, version, verdict).verdict
