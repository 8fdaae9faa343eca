"""A small pipeline for tests: orders with a label in the same file, and a price list that changes over time."""

from datetime import UTC, datetime
from pathlib import Path

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

from perennial.spec import At, Before, Files, Label, Lookup, Pipeline, TabularModel, UtcMicroseconds


class Order(pa.DataFrameModel):
    """Grain: one order."""

    order_id: int = pa.Field(gt=0)
    product: str = pa.Field(str_matches=r"^[a-z]+$")
    ordered_at: UtcMicroseconds
    pieces: int = pa.Field(ge=1, le=100)
    returned: bool = pa.Field(nullable=True)

    @pa.dataframe_check
    def no_bulk_of_gold(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(~((pl.col("product") == "gold") & (pl.col("pieces") > 10)))


class Price(pa.DataFrameModel):
    """Grain: one product."""

    product: str
    cents: int = pa.Field(gt=0)
    valid_from: UtcMicroseconds


def features(orders: pl.LazyFrame) -> pl.LazyFrame:
    return orders.select("product", "pieces", hour=pl.col("ordered_at").dt.hour(), cents="prices_cents")


pipeline = Pipeline(
    name="shop",
    sources=[
        Files("orders", "orders/*.csv", contract=Order, key=["order_id"], event_time="ordered_at",
              known=At("ordered_at"), error_budget_share=0.5),
        Files("prices", "prices/*.csv", contract=Price, key=["product"], known=At("valid_from")),
    ],
    entity="orders",
    joins=[Lookup("prices", on="product")],
    features=features,
    label=Label("returned", pl.col("returned")),
    model=TabularModel("binary", hidden=(16,), epochs=2),
)
'''

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def write_shop(folder: Path, text: str = FILE) -> Path:
    """Put `shop.py` into a folder of pipelines; return the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "shop.py").write_text(text)
    return folder


def shop(folder: Path) -> Pipeline:
    """The pipeline, loaded from the folder."""
    return load_pipeline("shop", write_shop(folder))


def put(lake: Lake, path: str, text: str) -> None:
    """A file arrives."""
    lake.files().pipe_file(lake.uri(f"landing/{path}"), text.encode())


def orders(first: int, count: int) -> str:
    """CSV of good orders, one a minute from 2024-05-01 12:00."""
    rows = [
        f"{number},{('pen', 'ink', 'gold')[number % 3]},2024-05-01T{12 + (number - 1) // 60:02}:{(number - 1) % 60:02}:00Z,{1 + number % 9},{number % 4 == 0}"
        for number in range(first, first + count)
    ]
    return "order_id,product,ordered_at,pieces,returned\n" + "\n".join(rows) + "\n"


def remember(lake: Lake, folder: Path, source: str, rows: list[dict[str, object]], batch: str) -> None:
    """Rows stand in a source's raw table, each known since its `_known_at`, as if a batch had brought them."""
    pipeline = load_pipeline("shop", folder)
    identifier, schema = raw_table(lake, "shop", source), raw_schema(pipeline.source(source))
    ensure_table(lake, identifier, schema)
    origin = {"_source": source, "_batch_id": batch, "_committed_at": datetime.now(UTC), "_contract_version": "1"}
    full = [{**origin, "_position": f"{batch}#{number}", **row} for number, row in enumerate(rows)]
    append_once(lake, identifier, pa.Table.from_pylist(full, schema), batch)
