"""What does this flat sell for? A pipeline of the benchmarks: eight numbers and a district, no join."""

import pandera.polars as pa
import polars as pl

from perennial.spec import At, Files, Label, Pipeline, Serving, TabularModel, UtcMicroseconds


class Sale(pa.DataFrameModel):
    """Grain: one sale."""

    sale: int
    sold_at: UtcMicroseconds
    district: str = pa.Field(isin=["north", "south", "east", "west"])
    rooms: int = pa.Field(ge=1, le=20)
    area_m2: float = pa.Field(gt=5, lt=1_000)
    floor: int = pa.Field(ge=-1, le=80)
    year: int = pa.Field(ge=1500, le=2100)
    latitude: float = pa.Field(ge=-90, le=90)
    longitude: float = pa.Field(ge=-180, le=180)
    lift: bool
    price: float = pa.Field(gt=0)


pipeline = Pipeline(
    name="houses",
    sources=[
        Files("sales", "sales/*.csv", contract=Sale, key=["sale"], event_time="sold_at", known=At("sold_at")),
    ],
    label=Label("price", pl.col("price")),
    model=TabularModel(task="regression"),
    serving=Serving(replicas=1),
)
