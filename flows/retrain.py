"""Act on a decision to retrain: once, however often the bell rings.

decision ─► claim ─► build_features ─► train ─► promote ─┬─► roll_out ─► promoted, rolled_back
                 └─► already claimed                     └─► rejected, inconclusive
"""

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.settings import Settings


@flow(flow_run_name="retrain-{pipeline}")
def retrain(pipeline: str, decision_id: str, settings: Settings | None = None) -> str | State[str]:
    """Return how the retraining ended; the champion serves on until a better version has been rolled out.

    Everything is done as of the decision's moment, so starting the run again goes on where it ended.
    """
    get_run_logger().info("asked to retrain %s for decision %s", pipeline, decision_id)
    # Imported now: together they take two seconds, for which the first line need not wait.
    from flows.build_features import build_features
    from flows.promote import promote
    from flows.roll_out import roll_out
    from flows.train import train
    from tasks.decisions import claim_retrain, read_train_from, record_retrain
    from tasks.notices import tell_failed, tell_started, tell_verdict
    from tasks.serving import RolledBack
    from tasks.story import show_story

    settings = settings or Settings()
    decision = claim_retrain(settings.lake, decision_id)
    if decision is None:
        return Completed(message="already claimed", data="already claimed")
    tell_started(decision)
    try:
        build_features(pipeline, decision.as_of, settings)
        version = train(pipeline, decision.as_of, decision.reason, settings, read_train_from(decision))
        verdict = promote(pipeline, version, decision.as_of, settings)
        if verdict == "promote":
            try:
                roll_out(pipeline, version, decision.as_of, settings)
            except RolledBack:  # an end, not a failure to try again
                verdict = "rolled_back"
    except Exception as error:
        tell_failed(settings.lake, decision, f"{type(error).__name__}: {error}")
        raise
    ended = record_retrain(settings.lake, decision, version, verdict)
    tell_verdict(settings.lake, ended)
    show_story(settings.lake, pipeline, settings.reports_base)
    return ended.verdict
