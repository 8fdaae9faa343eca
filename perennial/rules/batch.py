"""Publish a checked batch, or refuse it whole."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from pydantic import BaseModel

from perennial.spec.checks import BatchRule, Freshness, NullShare, References, RowCount, Severity
from perennial.spec.sources import Source

LEAST_HISTORY = 3  # batches, below which a median says little

REFUSED = "batch:refused"
"""The check that every row of a refused batch fails, after those it fails itself."""


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


class RuleResult(BaseModel, frozen=True):
    """How a batch stands to one of its source's batch rules."""

    name: str
    severity: Severity
    passed: bool
    detail: str


class Verdict(BaseModel, frozen=True):
    """What becomes of a checked batch. `refusal`: why none of it is published, as people read it; None: publish it."""

    refusal: str | None
    rules: list[RuleResult]


def judge_batch(source: Source, counts: BatchCounts, as_of: datetime, history: Sequence[int] = ()) -> Verdict:
    """Publish a checked batch, or refuse it whole. Pure: the same counts give the same verdict.

    Args:
        as_of: the run's moment, which freshness is measured from.
        history: rows that arrived with each of the source's published batches before this one, the newest last.
    """
    results = [_apply(rule, counts, as_of, history) for rule in source.rules if not isinstance(rule, References)]
    reasons = [
        f"{result.name}: {result.detail}" for result in results if result.severity == "block" and not result.passed
    ]
    blocking = {name: check for name, check in counts.failed.items() if check.severity == "block"}
    if blocking:
        rows = sum(check.rows for check in blocking.values())
        reasons.insert(0, f"{rows:,} failures of checks that let no batch pass ({', '.join(blocking)})")
    if counts.quarantined_rows > source.error_budget_share * counts.rows:
        share = counts.quarantined_rows / counts.rows
        reasons.append(
            f"{share:.1%} of its {counts.rows:,} rows broke the contract, over the budget of {source.error_budget_share:.1%}"
        )
    if not reasons:
        return Verdict(refusal=None, rules=results)
    common = counts.most_common(3)
    refusal = f"{'; '.join(reasons)}." + (f" Most common: {common}." if common else "")
    return Verdict(refusal=refusal, rules=results)


def _apply(rule: BatchRule, counts: BatchCounts, as_of: datetime, history: Sequence[int]) -> RuleResult:
    match rule:
        case RowCount():
            passed, detail = _row_count(rule, counts, history)
        case Freshness():
            passed, detail = _freshness(rule, counts, as_of)
        case NullShare():
            share = counts.nulls.get(rule.column, 0) / counts.rows if counts.rows else 0.0
            passed, detail = share <= rule.at_most, f"{share:.1%} of its fields are empty, allowed {rule.at_most:.1%}"
        case References():
            raise TypeError(f"{rule.name} judges rows, not batches.")
    return RuleResult(name=rule.name, severity=rule.severity, passed=passed, detail=detail)


def _row_count(rule: RowCount, counts: BatchCounts, history: Sequence[int]) -> tuple[bool, str]:
    before = history[-rule.batches :]
    if len(before) < LEAST_HISTORY:
        return True, f"{counts.rows:,} rows; {len(before)} batches before this one are too few to compare with"
    median = statistics.median(before)
    low, high = rule.at_least_share * median, rule.at_most_share * median
    return (
        low <= counts.rows <= high,
        f"{counts.rows:,} rows, allowed {low:,.0f} to {high:,.0f} by the median {median:,.0f} of {len(before)} batches",
    )


def _freshness(rule: Freshness, counts: BatchCounts, as_of: datetime) -> tuple[bool, str]:
    if counts.newest_event_at is None:
        return False, "no row with an event time is published"
    age = (as_of - counts.newest_event_at).total_seconds() / 3600
    return age <= rule.hours, f"the newest event, of {counts.newest_event_at.isoformat()}, is {age:.1f} hours old"
