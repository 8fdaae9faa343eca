"""Bring what the endpoint answered into the `predictions` table, exactly once.

answer ─► file beside the replica ─► segment on S3 ─► rows in `predictions`
          (the endpoint's part)                        (this flow's part)
"""

from prefect import flow

from flows.settings import Settings
from tasks.monitoring import commit_shipped_predictions


@flow(flow_run_name="log-predictions-{pipeline}")
def log_predictions(pipeline: str, settings: Settings | None = None) -> int:
    """Return how many rows this run committed. Running it again, or twice at once, commits nothing twice."""
    settings = settings or Settings()
    return commit_shipped_predictions(settings.lake, pipeline)
