"""Train a version again from the rows it was trained on, and say whether it is the same; the registry stays as it is.

version's row ─► its snapshot, by tag ─► Ray Train ─► rows, metrics, weights compared ─► reproduced | differs | rows_gone
"""

from prefect import flow

from flows.settings import Settings
from tasks.reproduction import compare_rebuild, config_of, plan_rebuild, record_rebuild, show_rebuild
from tasks.training import train_model


@flow(flow_run_name="reproduce-{pipeline}-v{version}")
def reproduce(pipeline: str, version: int, settings: Settings | None = None) -> str:
    """Return how it came out: reproduced, differs or rows_gone. What differs, and why it may, is in the decision's row."""
    settings = settings or Settings()
    lake, pipelines = settings.lake, settings.pipelines_dir
    rebuild = plan_rebuild(lake, pipelines, pipeline, version)
    config = config_of(rebuild.version, settings.training)
    trained = train_model(settings.compute, config, lake, pipelines, rebuild.plan) if rebuild.plan else None
    decision = record_rebuild(lake, rebuild, compare_rebuild(lake, pipelines, rebuild, trained))
    show_rebuild(lake, pipelines, rebuild, decision)
    return decision.verdict
