"""The rows of `batches`, turned: one series per check and per column, a value for every batch, problems first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import polars as pl


@dataclass(frozen=True)
class Series:
    """One figure over the batches of a page.

    Args:
        name: of the check or the column.
        counts: rows that failed, or had no value, one per batch, oldest first; None where the batch did not look.
        rows: rows that arrived with each batch.
        severity: of the check; "" for a column.
    """

    name: str
    counts: Sequence[int | None]
    rows: Sequence[int]
    severity: str = ""

    @cached_property
    def shares(self) -> list[float | None]:
        """The counts as shares of the batch's rows, in [0, 1]."""
        return [
            None if count is None else min(1.0, count / rows) if rows else 0.0
            for count, rows in zip(self.counts, self.rows, strict=True)
        ]

    @property
    def newest(self) -> int | None:
        """The count in the newest batch."""
        return self.counts[-1]

    @cached_property
    def hits(self) -> int:
        """Batches with a count above zero."""
        return sum(1 for count in self.counts if count)

    @cached_property
    def total(self) -> int:
        """The counts of all batches together."""
        return sum(count or 0 for count in self.counts)

    @cached_property
    def worst(self) -> int:
        """The position of the batch with the highest share; the newest of several."""
        shares = [share or 0.0 for share in self.shares]
        return max(range(len(shares)), key=lambda at: (shares[at], at))

    @property
    def jumped(self) -> bool:
        """Whether the newest share is more than twice, and 5 points above, the median of the batches before."""
        *before, newest = (share for share in self.shares if share is not None) if self.newest is not None else [0.0]
        usual = sorted(before)[len(before) // 2] if before else newest
        return newest > 2 * usual and newest > usual + 0.05


@dataclass(frozen=True)
class History:
    """What a page shows of the last batches of a source, oldest first; never without a batch."""

    batches: list[dict[str, Any]]
    checks: list[Series]
    columns: list[Series]

    @property
    def newest(self) -> dict[str, Any]:
        """The row of the newest batch."""
        return self.batches[-1]

    def lags(self) -> list[float | None]:
        """Hours from the newest event to `as_of`, per batch; None where rows tell of no instant."""
        return [_hours(row["newest_event_at"], row["as_of"]) for row in self.batches]

    def checks_of(self, column: str) -> list[Series]:
        """The checks that look at one column."""
        return [check for check in self.checks if check.name.startswith(f"{column}:")]


def read_history(rows: pl.DataFrame) -> History:
    """The history that rows of `batches` tell, which are of one source and sorted from old to new."""
    batches = rows.to_dicts()
    arrived = [int(row["rows"]) for row in batches]
    severities = {found["check"]: found["severity"] for row in batches for found in row["checks"] or ()}
    counts = _turn(batches, "checks", "check", "failed_rows")
    for row in batches:  # a batch that breaks a rule breaks it with all its rows
        row["rules"] = [rule | {"failed_rows": 0 if rule["passed"] else row["rows"]} for rule in row["rules"] or ()]
        severities |= {rule["name"]: rule["severity"] for rule in row["rules"]}
    counts |= _turn(batches, "rules", "name", "failed_rows")
    checks = [Series(name, failed, arrived, severities[name]) for name, failed in counts.items()]
    nulls = _turn(batches, "columns", "column", "nulls")
    columns = [Series(name, found, arrived) for name, found in nulls.items()]
    history = History(batches, sorted(checks, key=_by_failures), columns)
    return History(batches, history.checks, sorted(columns, key=lambda column: _by_trouble(history, column)))


def _turn(batches: list[dict[str, Any]], field: str, name: str, count: str) -> dict[str, list[int | None]]:
    """Counts per name, one for every batch; in the newest batch's order, names it has not at the end."""
    names = list(dict.fromkeys(found[name] for row in reversed(batches) for found in row[field] or ()))
    turned: dict[str, list[int | None]] = {each: [None] * len(batches) for each in names}
    for at, row in enumerate(batches):
        for found in row[field] or ():
            turned[found[name]][at] = found[count]
    return turned


def _by_failures(check: Series) -> tuple[float, int, int]:
    return (-(check.shares[-1] or 0.0), -check.hits, -check.total)


def _by_trouble(history: History, column: Series) -> tuple[float, int, int]:
    failed = [check for check in history.checks_of(column.name) if check.total]
    newest = sum(check.shares[-1] or 0.0 for check in failed)
    return (-newest, -int(column.jumped), -sum(check.hits for check in failed))


def _hours(event: datetime | None, as_of: datetime | None) -> float | None:
    return (as_of - event).total_seconds() / 3600 if event and as_of else None
