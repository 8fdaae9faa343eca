"""The example's flights with their features, in memory: the pipeline's own joins and functions, without a lakehouse."""

import polars as pl

from deployments.demo import data
from perennial.rules.features import compute_features, known_at
from perennial.spec import load_pipeline
from perennial.spec.load import contract_columns

PIPELINE = "flights"
DELAY = "arrival_delay_minutes"
LATE = "late"


def flights_table() -> pl.DataFrame:
    """Every flight of 2013 that arrived: month, `scheduled_at`, the model's inputs, the delay in minutes and `late`."""
    pipeline = load_pipeline(PIPELINE)
    arrived = data.all_flights().filter(pl.col(DELAY).is_not_null())
    flights = known_at(pipeline.entity_source, arrived, as_of=arrived["scheduled_at"].max())
    planned = known_at(pipeline.entity_source, data.all_flights(), as_of=arrived["scheduled_at"].max())
    hours = data.weather().with_columns(pl.col("observed_at").str.to_datetime(time_unit="us", time_zone="UTC"))
    logs = {
        name: known_at(pipeline.source(name), rows, as_of=flights["_known_at"].min())
        for name, rows in (("weather", hours), ("planes", data.planes()), ("airports", data.airports()))
    }
    arrivals = arrived.select(list(contract_columns(pipeline.source("arrivals"))))
    logs |= {
        "flights": planned,
        "arrivals": known_at(pipeline.source("arrivals"), arrivals, as_of=arrived["scheduled_at"].max()),
    }
    computed = compute_features(pipeline, flights, logs)
    return pl.concat(
        [computed, flights.select("month", DELAY, (pl.col(DELAY) > 15).cast(pl.Float64).alias(LATE))], how="horizontal"
    )
