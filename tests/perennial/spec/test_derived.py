"""Columns of `raw` that are computed as rows come in: what they are, and mistakes in them by name and line."""

import re
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from perennial.spec import PipelineError, load_pipeline
from perennial.spec.derived import derive_columns, derived_types
from tests.shop import FILE, write_shop

MISTAKES = {
    # what is wrong: the derived column, what the message says
    "a name of the contract": ('"pieces": pl.col("pieces") * 2', "is called like a column of the contract"),
    "a name of ours": ('"_day": pl.col("ordered_at").dt.date()', "must match"),
    "no name of a column": ('"total cents": pl.col("pieces") * 2', "must match"),
    "no expression": ('"twice": "pieces * 2"', "must be a Polars expression.*it is 'pieces"),
    "an unknown column": ('"twice": pl.col("piece") * 2', r"reads 'piece', which the contract does not have; it has \['order_id'"),
    "a type that does not fit": ('"day": pl.col("product").dt.date()', "cannot be computed on the declared columns"),
    "a type no table keeps": ('"parts": pl.col("product").str.split("-")', r"is List\(String\), which the table does not keep"),
    "an instant without zone": ('"local": pl.col("ordered_at").dt.replace_time_zone(None)', "which the table does not keep"),
    "a Python function": (
        '"big": pl.col("pieces").map_batches(lambda pieces: pieces > 5, is_elementwise=True)', "calls a Python function"
    ),
    "a sum": ('"share": pl.col("pieces") / pl.col("pieces").sum()', "looks at other rows"),
    "the row before": ('"gap": pl.col("ordered_at").dt.hour() - pl.col("ordered_at").dt.hour().shift(1)', "looks at other rows"),
    "a row far before": ('"gap": pl.col("pieces") - pl.col("pieces").shift(24)', "looks at other rows"),
    "a mean by key": ('"share": pl.col("pieces") / pl.col("pieces").mean().over("product")', "looks at other rows"),
    "the order of rows": ('"rank": pl.col("product").rank("ordinal")', "looks at other rows"),
    "the number of rows": ('"all": pl.len()', "looks at other rows"),
    "a personal column": ('"length": pl.col("product").str.len_chars()', "reads 'product', which is personal"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_with_its_name_and_line(tmp_path: Path, mistake: str) -> None:
    declared, message = MISTAKES[mistake]
    name = declared.split('"')[1]
    personal = ' personal=["product"],' if "personal" in mistake else ""
    text = FILE.replace("error_budget_share=0.5", f"error_budget_share=0.5,{personal}\n derived={{\n{declared}}}")
    line = next(number for number, found in enumerate(text.splitlines(), 1) if declared in found)
    with pytest.raises(PipelineError, match=rf"shop.py:{line}: derived column {re.escape(repr(name))}.*{message}"):
        load_pipeline("shop", write_shop(tmp_path, text))


def test_types_are_those_that_the_table_keeps() -> None:
    columns = {"at": pl.Datetime("us", "UTC"), "pieces": pl.Int32(), "share": pl.Float32(), "word": pl.String()}
    derived = {
        "hour": pl.col("at").dt.hour(),
        "day": pl.col("at").dt.date(),
        "half": pl.col("share") / 2,
        "letter": pl.col("word").str.slice(0, 1).cast(pl.Categorical),
        "many": pl.col("pieces") > 10,
    }
    types = {"hour": pl.Int64, "day": pl.Date, "half": pl.Float64, "letter": pl.String, "many": pl.Boolean}
    assert derived_types(derived, columns) == types
    rows = pl.DataFrame({"at": [datetime(2024, 5, 1, 7, tzinfo=UTC)], "pieces": 11, "share": 0.5, "word": "pen"})
    made = derive_columns(derived, rows.cast(columns))  # type: ignore[arg-type]  # a dict of types
    assert dict(made.select(list(derived)).schema) == types
    assert made.select(list(derived)).row(0) == (7, date(2024, 5, 1), 0.25, "p", True)
