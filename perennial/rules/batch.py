"""Publish a checked batch, or refuse it whole."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel

from perennial.spec.checks import Severity


class FailedCheck(BaseModel, frozen=True):
    """How many rows failed a check, and what is done about each of them."""

    severity: Severity
    rows: int


class BatchCounts(BaseModel, frozen=True):
    """What the contract found in a batch.

    Args:
        rows: that arrived, unreadable ones included.
        quarantined_rows: that are not published, each counted once.
        failed: every check that rows failed, by its name; a row counts for each of them.
        nulls: empty fields per column of the contract, among all rows that could be read; columns without are left out.
        newest_event_at: the latest event time of the rows that are published; None where the source has no event time.
    """

    rows: int
    quarantined_rows: int
    failed: dict[str, FailedCheck] = {}
    nulls: dict[str, int] = {}
    newest_event_at: datetime | None = None

    @staticmethod
    def total(parts: Iterable["BatchCounts"]) -> "BatchCounts":
        """The counts of a batch from those of its blocks."""
        parts = list(parts)
        rows: Counter[str] = Counter()
        nulls: Counter[str] = Counter()
        for part in parts:
            rows.update({name: check.rows for name, check in part.failed.items()})
            nulls.update(part.nulls)
        severities = {name: check.severity for part in parts for name, check in part.failed.items()}
        return BatchCounts(
            rows=sum(part.rows for part in parts),
            quarantined_rows=sum(part.quarantined_rows for part in parts),
            failed={name: FailedCheck(severity=severities[name], rows=number) for name, number in rows.most_common()},
            nulls=dict(nulls),
            newest_event_at=max((part.newest_event_at for part in parts if part.newest_event_at), default=None),
        )

    def most_common(self, number: int) -> str:
        """The checks that kept most rows from being published, as people read them."""
        rows = Counter({name: check.rows for name, check in self.failed.items() if check.severity != "warn"})
        return "; ".join(f"{check}, {failed:,} rows" for check, failed in rows.most_common(number))


def judge_batch(counts: BatchCounts, error_budget_share: float) -> str | None:
    """Why a checked batch is refused, or None to publish it. Pure: the same counts give the same verdict.

    Args:
        error_budget_share: rows that may be quarantined, as a share of the rows seen, in [0, 1].
    """
    if counts.quarantined_rows > error_budget_share * counts.rows:
        share = counts.quarantined_rows / counts.rows
        return (
            f"{share:.1%} of its {counts.rows:,} rows broke the contract, over the budget of {error_budget_share:.1%}. "
            f"Most common: {counts.most_common(3)}."
        )
    return None
