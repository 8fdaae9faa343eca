"""Explain one row's features: every value, and the rows, snapshot and moment that it came from.

key ─► the row as it was predicted for ─► what its features read (Ray) ─► a table of values and their rows
"""

from datetime import datetime
from typing import Any

from prefect import flow

from flows.clock import scheduled_start, utc
from flows.settings import Settings
from tasks.features import explain_on_ray, show_explained


@flow(flow_run_name="explain-{pipeline}")
def explain(
    pipeline: str, key: dict[str, Any], as_of: datetime | None = None, settings: Settings | None = None
) -> dict[str, Any]:
    """Return the inputs of the row, by name; the artifact says where each came from. Changes nothing.

    Args:
        key: the entity's key columns and their values; instants as text with their time zone.
        as_of: rows known by then are looked for; what the features count is what was known at the row's own moment.
    """
    settings = settings or Settings()
    as_of = utc(as_of or scheduled_start())
    found = explain_on_ray(settings.compute, settings.lake, settings.pipelines_dir, pipeline, key, as_of)
    show_explained(found)
    return {each.name: each.value for each in found.explained}
