"""A lone request gets the bits that its row gets among others, offline and in a batch."""

import pandera.polars as pa
import polars as pl

from perennial.rules.features import compute_features
from perennial.spec import Before, Files, Label, Pipeline, TabularModel, UtcMicroseconds
from tests.ray_jobs.drift.world import MAY


class Order(pa.DataFrameModel):
    order: int
    at: UtcMicroseconds
    cents: int
    returned: bool


PIPELINE = Pipeline(
    name="orders",
    sources=[Files("orders", "o/*.csv", contract=Order, key=["order"], event_time="at", known=Before("at", hours=0))],
    features=lambda orders: orders.select(week=pl.col("cents") / 7, hour=pl.col("cents") / 3600),
    label=Label("returned", pl.col("returned")),
    model=TabularModel("binary"),
)


def test_a_lone_row_has_the_bits_it_has_among_others() -> None:
    rows = pl.DataFrame({"order": range(500), "cents": range(1, 501), "returned": [True] * 500}).with_columns(
        at=pl.lit(MAY).cast(pl.Datetime("us", "UTC")), _known_at=pl.lit(MAY).cast(pl.Datetime("us", "UTC"))
    )
    together = compute_features(PIPELINE, rows, {})
    alone = pl.concat([compute_features(PIPELINE, rows[place], {}) for place in range(rows.height)])
    assert alone.equals(together)
