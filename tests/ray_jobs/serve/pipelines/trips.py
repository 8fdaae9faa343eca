"""Is a trip longer than twenty minutes? A pipeline of the tests: one as-of join, one lookup, made-up trips."""

from datetime import timedelta

import pandera.polars as pa
import polars as pl

from perennial.spec import AsOf, Before, Files, Label, Lookup, Pipeline, Rollout, Serving, TabularModel, UtcMicroseconds


class Trip(pa.DataFrameModel):
    """Grain: one trip."""

    trip: int
    station: str
    start_at: UtcMicroseconds
    distance_km: float = pa.Field(gt=0)
    member: bool
    note: str = pa.Field(nullable=True)
    minutes: float = pa.Field(nullable=True)


class Weather(pa.DataFrameModel):
    """Grain: one hour at one station."""

    station: str
    observed_at: UtcMicroseconds
    rain_mm: float


class Station(pa.DataFrameModel):
    """Grain: one station."""

    station: str
    docks: int


def features(trips: pl.LazyFrame) -> pl.LazyFrame:
    """Row by row: exactly the model's inputs."""
    return trips.select(
        "station",
        "distance_km",
        "member",
        hour=pl.col("start_at").dt.hour(),
        rain_mm="weather_rain_mm",
        docks="stations_docks",
    )


pipeline = Pipeline(
    name="trips",
    sources=[
        Files(
            "trips",
            "trips/*.csv",
            contract=Trip,
            key=["trip"],
            event_time="start_at",
            known=Before("start_at", hours=1),
        ),
        Files("weather", "weather/*.csv", contract=Weather, key=["station", "observed_at"], event_time="observed_at"),
        Files("stations", "stations.csv", contract=Station, key=["station"]),
    ],
    entity="trips",
    joins=[AsOf("weather", by="station", tolerance=timedelta(hours=3)), Lookup("stations", on="station")],
    features=features,
    label=Label("long", pl.col("minutes") > 20),
    model=TabularModel(task="binary"),
    serving=Serving(replicas=2, maximum_rows=2_000, refresh_seconds=0.5),
    rollout=Rollout(canary=(0.3, 0.6), requests=40, seconds=3.0),
)
