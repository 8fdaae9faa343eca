"""Publish a checked batch, or refuse it whole."""

from collections import Counter
from collections.abc import Iterable

from pydantic import BaseModel


class BatchCounts(BaseModel, frozen=True):
    """What the contract found in a batch; `failed` counts rows per check."""

    rows: int
    quarantined_rows: int
    failed: dict[str, int] = {}

    @staticmethod
    def total(parts: Iterable["BatchCounts"]) -> "BatchCounts":
        """The counts of a batch from those of its blocks."""
        parts = list(parts)
        failed: Counter[str] = Counter()
        for part in parts:
            failed.update(part.failed)
        return BatchCounts(
            rows=sum(part.rows for part in parts),
            quarantined_rows=sum(part.quarantined_rows for part in parts),
            failed=dict(failed),
        )

    def most_common(self, number: int) -> str:
        """The checks that failed for most rows, as people read them."""
        common = Counter(self.failed).most_common(number)
        return "; ".join(f"{check}, {rows:,} rows" for check, rows in common)


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
