"""The example's history features on real flights: they tell of the past as it was known, and of nothing later."""

from datetime import UTC, datetime

import polars as pl
import pytest

from deployments.demo import data
from perennial.rules.features import known_at
from perennial.rules.history import add_history
from perennial.rules.judges import judge_fused
from perennial.rules.versions import Versions
from perennial.spec import Pipeline, load_pipeline

NOON = datetime(2013, 1, 15, 12, tzinfo=UTC)
ARRIVAL = ["carrier", "flight", "scheduled_at", "arrived_at", "arrival_delay_minutes", "origin", "dest", "tailnum"]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline("flights")


@pytest.fixture(scope="module")
def arrivals(pipeline: Pipeline) -> pl.DataFrame:
    """January's, with when each was known."""
    landed = data.all_flights().filter(month=1).select(ARRIVAL).drop_nulls(ARRIVAL[:5])
    return known_at(pipeline.source("arrivals"), landed, NOON)


@pytest.fixture(scope="module")
def flights(pipeline: Pipeline) -> pl.DataFrame:
    """January's flights at the moments of their predictions."""
    return known_at(pipeline.entity_source, data.month_of_flights(1), NOON)


def test_arrivals_keep_their_contract(pipeline: Pipeline, arrivals: pl.DataFrame) -> None:
    failed = judge_fused(pipeline.source("arrivals").contract, arrivals.drop("_known_at"))
    assert {name: mask.sum() for name, mask in failed.items() if mask.any()} == {}


def test_shuffle_the_future_and_nothing_changes(
    pipeline: Pipeline, arrivals: pl.DataFrame, flights: pl.DataFrame
) -> None:
    future = pl.col("_known_at") > NOON
    shuffled = pl.concat(
        [
            arrivals.filter(~future),
            arrivals.filter(future).with_columns(pl.col("arrival_delay_minutes", "tailnum").shuffle(seed=1)),
        ]
    )
    source = pipeline.source("arrivals")
    true, planted = (add_history(flights, Versions(log, source), pipeline.history) for log in (arrivals, shuffled))
    past = pl.col("_known_at") <= NOON
    assert true.filter(past).equals(planted.filter(past))
    names = [feature.name for feature in pipeline.history]
    assert not true.filter(~past).select(names).equals(planted.filter(~past).select(names)), "later rows do see it"


def test_a_share_is_that_of_the_flights_that_had_landed(
    pipeline: Pipeline, arrivals: pl.DataFrame, flights: pl.DataFrame
) -> None:
    answered = add_history(flights, Versions(arrivals, pipeline.source("arrivals")), pipeline.history)
    for row in answered.gather_every(2_000, offset=9_000).iter_rows(named=True):
        known = arrivals.filter(
            (pl.col("arrived_at") <= row["_known_at"])
            & (pl.col("scheduled_at") <= row["_known_at"])
            & (pl.col("scheduled_at") > row["_known_at"] - pl.duration(days=7))
            & (pl.col("carrier") == row["carrier"])
        )
        assert row["carrier_late_share"] == (known["arrival_delay_minutes"] > 15).mean()
