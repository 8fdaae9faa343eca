"""Parcels that arrive late or not: a pipeline of the tests with every kind of look-up, over sources that correct themselves."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import raw_schema, raw_table
from perennial.lakehouse.tables import ensure_table
from perennial.spec import load_pipeline

FILE = """
from datetime import timedelta

import pandera.polars as pa
import polars as pl

from perennial.spec import (
    AsOf, At, Calendar, Files, History, Label, Lookup, Pipeline, TabularModel, UtcMicroseconds,
)


class Parcel(pa.DataFrameModel):
    parcel: int
    depot: str = pa.Field(nullable=True)
    sent_at: UtcMicroseconds
    grams: float = pa.Field(nullable=True)


class Delivery(pa.DataFrameModel):
    parcel: int
    depot: str = pa.Field(nullable=True)
    delivered_at: UtcMicroseconds
    days: float


class Storm(pa.DataFrameModel):
    depot: str
    began_at: UtcMicroseconds
    force: float


class Depot(pa.DataFrameModel):
    depot: str
    vans: int


def features(parcels: pl.LazyFrame) -> pl.LazyFrame:
    return parcels.select(
        "grams", "depot_days", "late_share", "sent_today", "heaviest", "all_sent", force="storms_force", vans="depots_vans"
    )


pipeline = Pipeline(
    name="parcels",
    sources=[
        Files("parcels", "parcels/*.csv", contract=Parcel, key=["parcel"], event_time="sent_at"),
        Files("deliveries", "deliveries/*.csv", contract=Delivery, key=["parcel"], event_time="delivered_at"),
        Files("storms", "storms/*.csv", contract=Storm, key=["depot", "began_at"], event_time="began_at"),
        Files("depots", "depots/*.csv", contract=Depot, key=["depot"]),
    ],
    entity="parcels",
    joins=[AsOf("storms", by="depot", tolerance=timedelta(hours=9)), Lookup("depots", on="depot")],
    history=[
        History("depot_days", "deliveries", "mean", "days", by="depot", window=timedelta(hours=12), unit="days", doc="How long"),
        History("late_share", "deliveries", "mean", pl.col("days") > 2, by="depot", window=timedelta(days=3), unit="share"),
        History("sent_today", "parcels", "count", by="depot", window=Calendar("day", "Europe/Berlin"), unit="parcels"),
        History("heaviest", "parcels", "max", "grams", by="depot", window=timedelta(hours=20), unit="grams"),
        History("all_sent", "parcels", "ewm", "grams", half_life=timedelta(hours=1), window=timedelta(days=1), unit="grams"),
    ],
    features=features,
    label=Label("late", pl.col("days") > 2, source="deliveries"),
    model=TabularModel("binary", hidden=(16,), epochs=2),
)
"""

START = datetime(2024, 5, 1, tzinfo=UTC)
DEPOTS = ["north", "south", "east"]


def write_parcels(folder: Path, text: str = FILE) -> Path:
    """Put `parcels.py` into a folder of pipelines; return the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "parcels.py").write_text(text)
    return folder


def hours(count: float) -> datetime:
    """An instant so many hours after the start."""
    return START + timedelta(minutes=round(60 * count))


def arrivals(seed: int, day: int) -> dict[str, list[dict[str, Any]]]:
    """A day's rows: most in time, some late by days, some that correct what was said before, also where and when."""
    chance = random.Random(f"{seed}/{day}")

    def known(happened: datetime) -> datetime:
        late = chance.random()
        return max(happened, hours(24 * day)) if late < 0.8 else happened + timedelta(hours=chance.randint(0, 30))

    rows: dict[str, list[dict[str, Any]]] = {"parcels": [], "deliveries": [], "storms": [], "depots": []}
    for number in range(12):
        again = chance.random() < 0.25
        parcel = chance.randrange(day * 12 + 12) if again else day * 12 + number
        sent = hours(24 * day + chance.uniform(-20, 24))
        depot, grams = chance.choice([*DEPOTS, None]), chance.choice([None, chance.uniform(1, 900)])
        rows["parcels"].append(
            {"parcel": parcel, "depot": depot, "sent_at": sent, "grams": grams, "_known_at": known(sent)}
        )
        came = hours(24 * day + chance.uniform(-30, 24))
        parcel = chance.randrange(day * 12 + 12)
        rows["deliveries"].append(
            {
                "parcel": parcel,
                "depot": depot,
                "delivered_at": came,
                "days": chance.uniform(0, 5),
                "_known_at": known(came),
            }
        )
    for _ in range(2):
        began = hours(24 * day + chance.randint(-30, 23))
        rows["storms"].append(
            {
                "depot": chance.choice(DEPOTS),
                "began_at": began,
                "force": chance.uniform(0, 9),
                "_known_at": known(began),
            }
        )
    changed = hours(24 * day + chance.uniform(-40, 24))
    rows["depots"].append({"depot": chance.choice(DEPOTS), "vans": chance.randint(1, 9), "_known_at": changed})
    return rows


def remember(lake: Lake, folder: Path, rows: dict[str, list[dict[str, Any]]], batch: str) -> None:
    """Rows stand in the raw tables, as if a batch of each source had brought them."""
    pipeline = load_pipeline("parcels", folder)
    for source, some in rows.items():
        identifier, schema = raw_table(lake, "parcels", source), raw_schema(pipeline.source(source))
        ensure_table(lake, identifier, schema)
        committed = hours(24 * int(batch.split("-")[-1]))
        origin = {"_source": source, "_batch_id": batch, "_committed_at": committed, "_contract_version": "1"}
        full = [{**origin, "_position": f"{batch}#{number}", **row} for number, row in enumerate(some)]
        append_once(lake, identifier, pa.Table.from_pylist(full, schema), batch)
