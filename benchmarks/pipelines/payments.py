"""Will a payment be refused? Made-up payments for benchmarks: eight history features over three windows, two as-of joins."""

from datetime import timedelta

import pandera.polars as pa
import polars as pl

from perennial.spec import AsOf, At, Files, History, Label, Pipeline, TabularModel, UtcMicroseconds

HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(days=7)


class Payment(pa.DataFrameModel):
    """Grain: one payment."""

    payment: int
    account: int
    at: UtcMicroseconds
    cents: float
    refused: bool


class Check(pa.DataFrameModel):
    """Grain: one look at an account."""

    account: int
    at: UtcMicroseconds
    score: float


HISTORY = [
    History("count_1h", "payments", "count", by="account", window=HOUR),
    History("sum_1h", "payments", "sum", "cents", by="account", window=HOUR),
    History("count_1d", "payments", "count", by="account", window=DAY),
    History("mean_1d", "payments", "mean", "cents", by="account", window=DAY),
    History("max_1d", "payments", "max", "cents", by="account", window=DAY),
    History("sum_7d", "payments", "sum", "cents", by="account", window=WEEK),
    History("std_7d", "payments", "std", "cents", by="account", window=WEEK),
    History("min_7d", "payments", "min", "cents", by="account", window=WEEK),
]


def features(payments: pl.LazyFrame) -> pl.LazyFrame:
    """The ten, and the payment's own."""
    return payments.select(*(feature.name for feature in HISTORY), "cents", "checks_score", "ratings_score")


pipeline = Pipeline(
    name="payments",
    sources=[
        Files(
            "payments",
            "payments/*.csv",
            contract=Payment,
            key=["payment"],
            event_time="at",
            known=At("at"),
            same_key="violation",
        ),
        *(
            Files(name, f"{name}/*.csv", contract=Check, key=["account", "at"], event_time="at", known=At("at"))
            for name in ("checks", "ratings")
        ),
    ],
    entity="payments",
    joins=[AsOf("checks", by="account", tolerance=DAY), AsOf("ratings", by="account", tolerance=WEEK)],
    history=HISTORY,
    features=features,
    label=Label("refused", pl.col("refused")),
    model=TabularModel("binary"),
)
