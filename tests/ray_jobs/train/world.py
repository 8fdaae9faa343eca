"""A pipeline whose label can be learned, and its features as `build_features` leaves them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import ensure_table
from perennial.rules.tabular import InputKind

FILE = '''
from datetime import timedelta

import pandera.polars as pa
import polars as pl

from perennial.spec import At, Files, Label, Pipeline, Promotion, TabularModel, UtcMicroseconds


class Ride(pa.DataFrameModel):
    """Grain: one ride."""

    ride_id: int
    started_at: UtcMicroseconds
    distance_km: float = pa.Field(nullable=True)
    rain: bool
    city: str = pa.Field(nullable=True)
    late: bool


pipeline = Pipeline(
    name="rides",
    sources=[Files("rides", "rides/*.csv", contract=Ride, key=["ride_id"], event_time="started_at", known=At("started_at"))],
    label=Label("late", pl.col("late")),
    model=TabularModel("binary", hidden=(32, 32), epochs=3),
    promotion=Promotion(holdout=timedelta(days=5), minimum_rows=100, slices=["city"], minimum_slice_rows=50),
)
'''
INPUTS: dict[str, InputKind] = {"distance_km": "number", "rain": "number", "city": "category"}
START = datetime(2024, 3, 1, tzinfo=UTC)
AS_OF = START + timedelta(days=31)
LATE_LABELS = 10
"""Rows, spread over the month, whose label became known after AS_OF."""


def write_rides(folder: Path) -> Path:
    """Put `rides.py` into a folder of pipelines; return the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "rides.py").write_text(FILE)
    return folder


def rows(count: int, seed: int = 4) -> pl.DataFrame:
    """A month of rides, evenly spread: long and rainy ones are late, and Oslo is slower than Rome."""
    generator = np.random.default_rng(seed)
    distance = generator.gamma(2.0, 3.0, count)
    rain = generator.random(count) < 0.3
    city = generator.choice(["Rome", "Oslo", "Bern"], count)
    odds = 0.5 * (distance - 6) + 2.0 * rain + 1.5 * (city == "Oslo") - 1.5
    late = generator.random(count) < 1 / (1 + np.exp(-odds))
    instant = pl.Datetime("us", "UTC")
    started = pl.Series([START + i * timedelta(days=30) / count for i in range(count)], dtype=instant)
    return pl.DataFrame(
        {
            "ride_id": np.arange(count),
            "started_at": started,
            "_known_at": started,
            "distance_km": pl.Series(distance).set(pl.Series(generator.random(count) < 0.05), None),
            "rain": rain,
            "city": pl.Series(city).set(pl.Series(generator.random(count) < 0.05), None),
            "late": late.astype(np.float64),
            "_label_known_at": started + timedelta(hours=2),
        }
    )


def fill_features(lake: Lake, count: int = 3_000, rename: dict[str, str] | None = None) -> int:
    """Commit the features in two files; return the snapshot. Some labels come too late, and would mislead."""
    table = rows(count).rename(rename or {}).with_row_index()
    belated = pl.col("index") % (count // LATE_LABELS) == 7
    table = table.with_columns(
        late=pl.when(belated).then(1 - pl.col("late")).otherwise(pl.col("late")),
        _label_known_at=pl.when(belated).then(pl.lit(AS_OF + timedelta(days=1))).otherwise(pl.col("_label_known_at")),
    ).drop("index")
    identifier = lake.table("rides", "features")
    ensure_table(lake, identifier, table.to_arrow().schema)
    snapshot = 0
    for name, part in (("later", table[count // 2 :]), ("earlier", table[: count // 2])):
        snapshot = append_once(lake, identifier, part.to_arrow(), name).snapshot_id
    return snapshot
