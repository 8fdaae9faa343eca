"""A small pipeline for tests that reads a topic: clicks, and helpers to send and read them."""

from pathlib import Path

import polars as pl

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import read_snapshot
from tests.brokers import Brokers

FILE = '''
import pandera.polars as pa
import polars as pl

from perennial.spec import Kafka, Label, Pipeline, TabularModel, UtcMicroseconds


class Click(pa.DataFrameModel):
    """Grain: one click."""

    click_id: int = pa.Field(ge=0)
    page: str = pa.Field(nullable=True)
    at: UtcMicroseconds
    kafka_key: str
    kafka_timestamp: UtcMicroseconds


pipeline = Pipeline(
    name="web",
    sources=[
        Kafka("clicks", topic="clicks", servers="{servers}", contract=Click, key=["click_id"], event_time="at",
              error_budget_share=0.9, {more}),
    ],
    label=Label("bought", pl.col("click_id") % 2 == 0),
    model=TabularModel("binary"),
)
'''


def declare(folder: Path, brokers: Brokers, more: str = "maximum_messages=1_000") -> None:
    (folder / "web.py").write_text(FILE.replace("{servers}", brokers.servers).replace("{more}", more))


def send(brokers: Brokers, first: int, count: int, partition: int = 0) -> None:
    messages = [
        {"click_id": number, "page": "/a", "at": "2024-05-01T12:00:00Z"} for number in range(first, first + count)
    ]
    brokers.send("clicks", messages, partition, key=b"k", timestamp=1_700_000_000_000)


def rows(lake: Lake, table: str) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(read_snapshot(lake, lake.table("web", table))))
