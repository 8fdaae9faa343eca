"""Nested JSON as columns: values inside, numbers for lists, null for what is not there or of another type."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest

from perennial.rules.features import compute_features, feature_code_hash, input_names
from perennial.rules.flatten import flatten
from perennial.spec import Files, History, Json, Label, Pipeline, TabularModel, UtcMicroseconds

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class Order(pa.DataFrameModel):
    """Grain: one order."""

    order: int
    at: UtcMicroseconds
    payload: str = pa.Field(nullable=True)
    returned: bool = pa.Field(nullable=True)


ORDERS = Files(
    "orders",
    "orders/*.jsonl",
    contract=Order,
    key=["order"],
    event_time="at",
    flatten={
        "country": Json("payload", "user.country", str),
        "age": Json("payload", "user.age", int, unit="years"),
        "cents": Json("payload", "items[].cents", float, "sum", unit="cents"),
        "pieces": Json("payload", "items[].cents", float, "count"),
        "dearest": Json("payload", "items[].cents", int, "max"),
        "tags": Json("payload", "items[].tags[].name", str, "distinct"),
    },
)
ITEMS = [
    {"cents": 100, "tags": [{"name": "a"}, {"name": "b"}]},
    {"cents": 50.5, "tags": [{"name": "a"}]},
    {"cents": "x"},
]
CASES: list[tuple[str | None, tuple[Any, ...]]] = [
    (json.dumps({"user": {"country": "AT", "age": 30}, "items": ITEMS}), ("AT", 30, 150.5, 2, 100, 2)),
    (json.dumps({"user": {"country": 7, "age": True}, "items": []}), (None, None, 0.0, 0, None, 0)),
    (json.dumps({"user": "nobody", "items": {"cents": 1}}), (None, None, 0.0, 0, None, 0)),
    ("{broken", (None,) * 6),
    (
        '{"user": {"age": 1e30}, "items": [{"cents": 1e30}, {"cents": 9223372036854775808}]}',
        (None, None, 1e30 + 2.0**63, 2, None, 0),
    ),
    (None, (None,) * 6),
]


def rows() -> pl.DataFrame:
    """One order per case."""
    texts = [text for text, _ in CASES]
    schema: dict[str, Any] = {
        "order": pl.Int64,
        "at": pl.Datetime("us", "UTC"),
        "payload": pl.String,
        "returned": pl.Boolean,
    }
    return pl.DataFrame(
        {"order": range(len(texts)), "at": [NOON] * len(texts), "payload": texts, "returned": [None] * len(texts)},
        schema,
    )


def test_values_inside_become_columns_and_lists_numbers() -> None:
    flat = flatten(ORDERS, rows())
    assert flat.select(*ORDERS.flatten).rows() == [expected for _, expected in CASES]
    assert {name: flat.schema[name] for name in ORDERS.flatten} == {name: j.type for name, j in ORDERS.flatten.items()}


@pytest.mark.parametrize(
    ("cents", "total"), [([2**63 - 1, 1], None), ([2**63 - 2, 1], 2**63 - 1), ([-(2.0**63)], -(2**63)), ([2.0**63], 0)]
)
def test_a_sum_of_whole_numbers_beyond_64_bits_is_null(cents: list[float], total: int | None) -> None:
    source = replace(ORDERS, flatten={"total": Json("payload", "items[].cents", int, "sum")})
    payload = json.dumps({"items": [{"cents": number} for number in cents]})
    assert flatten(source, rows().head(1).with_columns(payload=pl.lit(payload)))["total"].to_list() == [total]


def test_features_and_histories_find_them() -> None:
    pipeline = Pipeline(
        name="orders",
        sources=[ORDERS],
        history=[History("spent", "orders", "sum", "cents", by="country")],
        features=lambda orders: orders.select("country", "pieces", "spent"),
        label=Label("returned", pl.col("returned")),
        model=TabularModel("binary"),
    )
    assert input_names(pipeline) == {"country": "category", "pieces": "number", "spent": "number"}
    more = rows().head(1).with_columns(order=pl.lit(99, pl.Int64))
    known = pl.concat([rows(), more]).with_columns(_known_at=pl.col("at"))
    computed = compute_features(pipeline, known.tail(1), {"orders": known})
    assert computed.select("country", "pieces", "spent").row(0) == ("AT", 2, 150.5)
    assert feature_code_hash(pipeline)


@pytest.mark.parametrize(
    ("json_column", "says"),
    [
        (Json("payload", "items[].cents"), "needs an aggregate"),
        (Json("payload", "user.age", float, "sum"), "only a list has one"),
        (Json("payload", "items[].x", str, "sum"), "of numbers"),
        (Json("payload", "a..b"), "names with dots"),
    ],
)
def test_a_mistaken_path_says_what_is_wrong(json_column: Json, says: str) -> None:
    assert says in " ".join(json_column.mistakes())
