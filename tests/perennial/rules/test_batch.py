"""A batch's verdict: from its counts, its source's rules and the batches before it, and from nothing else."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pandera.polars as pa
import pytest

from perennial.rules.batch import BatchCounts, FailedCheck, judge_batch
from perennial.spec import Files, Freshness, NullShare, RowCount, UtcMicroseconds

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class Order(pa.DataFrameModel):
    """Grain: one order."""

    order_id: int
    ordered_at: UtcMicroseconds
    weight: float = pa.Field(nullable=True)


def source(*rules: Any, budget: float = 0.1) -> Files:
    """The source of the orders."""
    return Files(
        "orders",
        "orders/*.csv",
        contract=Order,
        key=["order_id"],
        event_time="ordered_at",
        rules=rules,
        error_budget_share=budget,
    )


def counts(rows: int = 100, **told: Any) -> BatchCounts:
    """Counts of a batch of good rows, but for what is told."""
    return BatchCounts(**{"rows": rows, "quarantined_rows": 0, "newest_event_at": NOON} | told)


def refusal(rule: Any, found: BatchCounts, history: list[int] | None = None) -> str | None:
    """Why a batch is refused by one rule."""
    return judge_batch(source(rule), found, NOON, history or []).refusal


def test_a_batch_within_its_budget_is_published_and_one_over_it_names_its_three_most_common_reasons() -> None:
    failed = {
        name: FailedCheck(severity=severity, rows=rows)
        for name, severity, rows in (
            ("a", "quarantine", 3),
            ("b", "warn", 90),
            ("c", "quarantine", 9),
            ("d", "quarantine", 5),
            ("e", "quarantine", 4),
        )
    }
    found = counts(quarantined_rows=11, failed=failed)
    assert judge_batch(source(budget=0.11), found, NOON).refusal is None
    assert judge_batch(source(budget=0.1), found, NOON).refusal == (
        "11.0% of its 100 rows broke the contract, over the budget of 10.0%. "
        "Most common: c, 9 rows; d, 5 rows; e, 4 rows."
    )


def test_one_row_that_fails_a_blocking_check_refuses_its_batch() -> None:
    found = counts(quarantined_rows=1, failed={"total:equal": FailedCheck(severity="block", rows=1)})
    assert judge_batch(source(), found, NOON).refusal == (
        "1 failures of checks that let no batch pass (total:equal). Most common: total:equal, 1 rows."
    )


@pytest.mark.parametrize(
    ("rule", "found", "history", "says"),
    [
        (RowCount(), counts(49), [100, 1000, 90], "rows:share_of_median(0.5, 2.0): 49 rows, allowed 50 to 200 by the median 100"),
        (RowCount(), counts(201), [100, 100, 100], "201 rows, allowed 50 to 200"),
        (RowCount(batches=3), counts(100), [1, 1, 1, 100, 100, 100], None),
        (RowCount(batches=3), counts(100), [100, 100, 1, 1, 1], "allowed 0 to 2"),
        (RowCount(), counts(1), [100, 100], None),  # two batches are no history
        (Freshness(hours=3), counts(newest_event_at=NOON - timedelta(hours=3)), [], None),
        (Freshness(hours=3), counts(newest_event_at=NOON - timedelta(hours=4)), [], "2024-05-01T08:00:00+00:00, is 4.0 hours old"),
        (Freshness(hours=3), counts(newest_event_at=None), [], "no row with an event time is published"),
        (NullShare("weight", 0.2), counts(nulls={"weight": 20}), [], None),
        (NullShare("weight", 0.2), counts(nulls={"weight": 21}), [], "weight:null_share(0.2): 21.0% of its fields are empty"),
        (NullShare("weight", 0.2), counts(0), [], None),
    ],
)  # fmt: skip
def test_a_batch_rule_refuses_a_batch_that_breaks_it(
    rule: Any, found: BatchCounts, history: list[int], says: str | None
) -> None:
    told = refusal(rule, found, history)
    assert told is None if says is None else says in str(told)


def test_a_rule_that_only_warns_is_told_and_refuses_nothing() -> None:
    verdict = judge_batch(source(NullShare("weight", 0, "warn")), counts(nulls={"weight": 1}), NOON)
    assert verdict.refusal is None
    assert [(rule.name, rule.passed, rule.severity) for rule in verdict.rules] == [
        ("weight:null_share(0)", False, "warn")
    ]
