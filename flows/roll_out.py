"""Let a promoted version serve, without dropping a request; or leave everything as it was and say why.

approved? ─► champion in the registry ─► replicas load it beside the old one, try it, swap ─┬─► rolled_out
                                                                                            └─► rolled_back
"""

from datetime import datetime

from prefect import flow

from flows.clock import scheduled_start
from flows.settings import Settings
from tasks.serving import RolledBack, check_approval, open_rollout, record_rollout, roll_back, roll_endpoint


@flow(flow_run_name="roll-out-{pipeline}-v{version}")
def roll_out(pipeline: str, version: int, as_of: datetime | None = None, settings: Settings | None = None) -> int:
    """Return the generation under which the version serves. Running it again changes nothing.

    Raises:
        NotApproved: no promotion was decided for the version; nothing was changed.
        StageConflict: another roll-out was faster; nothing was changed.
        RolledBack: a replica refused it or none could start with it; the former champion serves.
    """
    settings = settings or Settings()
    as_of = as_of or scheduled_start()

    reason = check_approval(settings.lake, pipeline, version)
    step = open_rollout(settings.lake, pipeline, version, as_of, reason)
    report = roll_endpoint(settings.compute, settings.serve, settings.lake, settings.pipelines_dir, step)
    if report.failure:
        roll_back(settings.lake, step, as_of, report.failure)
        raise RolledBack(step, report.failure)
    record_rollout(settings.lake, step, as_of, report)
    return step.stage.generation
