"""The only clock of the flows: the moment a run was due, so that a late or repeated run knows what it was meant to know."""

from datetime import UTC, datetime

from prefect.runtime import flow_run


def scheduled_start() -> datetime:
    """When this run was due (UTC); outside of a run, now."""
    due = flow_run.scheduled_start_time
    return datetime.now(UTC) if due is None else datetime.fromtimestamp(due.timestamp(), UTC)


def utc(moment: datetime) -> datetime:
    """The moment in UTC; one without a zone, as people type it into the UI, is UTC already."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
