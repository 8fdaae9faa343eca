"""What ten features add to a request: eight of history and two as-of joins, from the state that a replica holds in memory.

Each round computes the model's inputs of rows as the endpoint does, once from the state and once with the ten columns in
the request; the difference is what they cost. Values must equal those that a build computes from the whole log. Run it
with `make bench-features-online` (KEYS=100000).
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pandera.polars as pa
import polars as pl

from benchmarks.features import FEATURES, PAYMENTS, payments
from perennial.rules.features import compute_features, row_schema
from perennial.rules.held import hold
from perennial.rules.joins import MOMENT
from perennial.spec import AsOf, Files, Label, Pipeline, TabularModel, UtcMicroseconds

ROUNDS = 5
REQUESTS = 200
BATCH = 100


class Order(pa.DataFrameModel):
    """Grain: one order."""

    order: int
    account: int
    at: UtcMicroseconds
    cents: float
    paid: bool


class Check(pa.DataFrameModel):
    """Grain: one look at an account."""

    account: int
    at: UtcMicroseconds
    score: float


def features(orders: pl.LazyFrame) -> pl.LazyFrame:
    """The ten, and the order's own."""
    return orders.select(*(feature.name for feature in FEATURES), "cents", "checks_score", "ratings_score")


PIPELINE = Pipeline(
    name="orders",
    sources=[
        Files("orders", "orders/*.csv", contract=Order, key=["order"], event_time="at"),
        PAYMENTS,
        *(
            Files(name, f"{name}/*.csv", contract=Check, key=["account", "at"], event_time="at")
            for name in ("checks", "ratings")
        ),
    ],
    entity="orders",
    joins=[
        AsOf("checks", by="account", tolerance=timedelta(days=1)),
        AsOf("ratings", by="account", tolerance=timedelta(days=7)),
    ],
    history=FEATURES,
    features=features,
    label=Label("paid", pl.col("paid")),
    model=TabularModel("binary"),
)


def cpu_ms(run: Callable[[pl.DataFrame], pl.DataFrame], requests: list[pl.DataFrame]) -> float:
    """CPU-milliseconds of one request, all threads of this process."""
    gc.collect()
    began = time.process_time()
    for rows in requests:
        run(rows)
    return (time.process_time() - began) * 1000 / len(requests)


def main(keys: int, events: int) -> None:
    """Measure, check the values, print a table."""
    log, checks = payments(events)
    rng = np.random.default_rng(11)
    log = log.with_columns(account=pl.Series(rng.integers(0, keys, len(log))))
    checks = checks.with_columns(account=pl.Series(rng.integers(0, keys, len(checks))))
    tables = {"payments": log, "checks": checks, "ratings": checks}
    began = time.process_time()
    held = {name: hold(PIPELINE, name, table) for name, table in tables.items()}
    print(f"{len(log):,} payments of {keys:,} accounts; held in memory after {time.process_time() - began:.1f} CPU s")
    schema, now = row_schema(PIPELINE), log["at"].max()
    asked = pl.DataFrame({"order": np.arange(REQUESTS * BATCH), "account": rng.integers(0, keys, REQUESTS * BATCH)})
    asked = asked.with_columns(at=pl.lit(now), cents=pl.lit(5.0)).with_columns(pl.col("at").alias(MOMENT))

    def added(rows: pl.DataFrame) -> pl.DataFrame:
        return compute_features(PIPELINE, rows, {}, held, schema)

    offline = compute_features(PIPELINE, asked, tables)
    assert pl.concat(added(asked[n : n + BATCH]) for n in range(0, len(asked), BATCH)).equals(offline)
    few = asked[:REQUESTS]
    assert pl.concat(added(few[n]) for n in range(len(few))).equals(offline[:REQUESTS])
    own = offline.select(pl.exclude("order", "at", MOMENT, "cents"))
    print("| rows a request | CPU ms with the ten sent along | computed | they add, a request | they add, a row |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for size in (1, BATCH):
        requests = [asked[n * size : (n + 1) * size] for n in range(REQUESTS)]
        brought = [rows.hstack(own[n * size : (n + 1) * size]) for n, rows in enumerate(requests)]
        cpu_ms(added, requests[:20])
        rounds = [(cpu_ms(added, brought), cpu_ms(added, requests)) for _ in range(ROUNDS)]
        base, all_ms = (statistics.median(each) for each in zip(*rounds, strict=True))
        more = statistics.median(computed - sent for sent, computed in rounds)
        print(f"| {size} | {base:.2f} | {all_ms:.2f} | {more:.2f} | {more / size:.4f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000)
