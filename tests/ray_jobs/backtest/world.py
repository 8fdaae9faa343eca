"""Ten weeks of offers whose outcome follows their price, until the sixth week turns the rule around; outcomes come late."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import raw_schema, raw_table
from perennial.lakehouse.tables import ensure_table
from perennial.spec import Pipeline, load_pipeline

FILE = '''
from datetime import timedelta

import pandera.polars as pa
import polars as pl

from perennial.spec import At, Files, Label, Monitoring, Pipeline, Promotion, TabularModel, UtcMicroseconds


class Offer(pa.DataFrameModel):
    """Grain: one offer."""

    offer_id: int
    made_at: UtcMicroseconds
    price: float
    colour: str


class Outcome(pa.DataFrameModel):
    """Grain: one offer that was answered."""

    offer_id: int
    answered_at: UtcMicroseconds
    taken: bool


pipeline = Pipeline(
    name="offers",
    sources=[
        Files("offers", "offers/*.csv", contract=Offer, key=["offer_id"], event_time="made_at", known=At("made_at")),
        Files("outcomes", "outcomes/*.csv", contract=Outcome, key=["offer_id"], event_time="answered_at",
              known=At("answered_at")),
    ],
    entity="offers",
    label=Label("taken", pl.col("taken"), source="outcomes"),
    model=TabularModel("binary", hidden=(16,), epochs=3),
    promotion=Promotion(holdout=timedelta(days=3), minimum_rows=50, beats_last_label=False),
    monitoring=Monitoring(minimum_rows=100, cool_down=timedelta(0), training="sliding", training_length=timedelta(days=8)),
)
'''
START = datetime(2026, 3, 2, tzinfo=UTC)
WEEK, DAY = timedelta(days=7), timedelta(days=1)
WEEKS, A_WEEK = 10, 300
TURNS = 6
MOMENTS = ("made_at", "answered_at")


def write_offers(folder: Path) -> Path:
    """Put `offers.py` into a folder of pipelines; return the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "offers.py").write_text(FILE)
    return folder


def offers(seed: int = 5) -> pl.DataFrame:
    """Every offer with its outcome and when that was known."""
    generator = np.random.default_rng(seed)
    count = WEEKS * A_WEEK
    made = [START + i * WEEK / A_WEEK for i in range(count)]
    price = generator.normal(100, 20, count)
    sign = np.where(np.arange(count) < TURNS * A_WEEK, 1.0, -1.0)
    taken = generator.random(count) < 1 / (1 + np.exp(-sign * (price - 100) / 8))
    instant = pl.Datetime("us", "UTC")
    return pl.DataFrame(
        {
            "offer_id": np.arange(count),
            "made_at": pl.Series(made, dtype=instant),
            "price": price,
            "colour": generator.choice(["red", "green"], count),
            "taken": taken,
            "answered_at": pl.Series(made, dtype=instant) + DAY,
        }
    )


def later(rows: pl.DataFrame) -> pl.DataFrame:
    """As many offers once more, after the last decision about these."""
    return rows.with_columns(pl.col("offer_id") + rows.height, *(pl.col(at) + WEEKS * WEEK + 2 * DAY for at in MOMENTS))


def fill(lake: Lake, pipelines: Path, rows: pl.DataFrame, batch: str = "all") -> int:
    """The features and the log of outcomes, as ingest and build_features leave them; return the features' snapshot."""
    pipeline = load_pipeline("offers", pipelines)
    outcomes = rows.select("offer_id", "answered_at", "taken", _known_at="answered_at")
    remember(lake, pipeline, "outcomes", outcomes, batch)
    features = rows.select(
        "offer_id", "made_at", "price", "colour", _known_at="made_at",
        taken=pl.col("taken").cast(pl.Float64), _label_known_at="answered_at",
    )  # fmt: skip
    identifier = lake.table("offers", "features")
    ensure_table(lake, identifier, features.to_arrow().schema)
    return append_once(lake, identifier, features.to_arrow(), batch).snapshot_id


def remember(lake: Lake, pipeline: Pipeline, source: str, rows: pl.DataFrame, batch: str) -> None:
    """Rows of a source in `raw`, as ingest leaves them."""
    identifier, schema = raw_table(lake, "offers", source), raw_schema(pipeline.source(source))
    ensure_table(lake, identifier, schema)
    origin = {"_source": source, "_batch_id": batch, "_committed_at": datetime.now(UTC), "_contract_version": "1"}
    full = [{**origin, "_position": f"{batch}#{number}", **row} for number, row in enumerate(rows.to_dicts())]
    append_once(lake, identifier, pa.Table.from_pylist(full, schema), batch)
