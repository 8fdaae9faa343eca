"""Logs of what sources said: in which order, and what is true after all of it."""

from datetime import timedelta
from pathlib import Path

import polars as pl

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import ensure_raw, in_order, read_keys
from perennial.spec import load_pipeline
from tests.shop import FILE, NOON, write_shop


def test_rows_of_a_file_in_ranges_stand_in_the_files_order() -> None:
    places = [
        "a/big.csv#9",
        "a/big.csv#10",
        "a/big.csv@134217800#3",
        "a/big.csv@1073741900#1",
        "a/c.csv#1",
        "t[0]@9",
        "t[0]@10",
    ]
    rows = pl.DataFrame({"_position": places, "row": range(len(places))}).with_columns(
        _known_at=pl.lit(NOON), _committed_at=pl.lit(NOON)
    )
    assert in_order(rows.sample(fraction=1, shuffle=True, seed=4))["row"].to_list() == list(range(len(places)))


def test_what_may_be_referred_to_is_what_the_last_row_of_a_file_says(lake: Lake, pipelines: Path) -> None:
    write_shop(
        pipelines,
        FILE.replace(
            '"prices/*.csv", contract=Price, key=["product"]', '"prices/*.csv", contract=Price, key=["valid_from"]'
        ),
    )
    pipeline = load_pipeline("shop", pipelines)
    rows = pl.DataFrame(
        {
            "product": ["old", "new"],
            "cents": [1, 2],
            "valid_from": [NOON, NOON],
            "_position": ["p.csv#9", "p.csv#10"],
            "_known_at": [NOON, NOON],
            "_committed_at": [NOON, NOON],
        }
    )
    table = ensure_raw(lake, "shop", pipeline.source("prices"))
    table.append(rows.to_arrow())
    later = NOON + timedelta(days=1)
    assert read_keys(lake, pipeline, "prices", ["product"], later)["product"].to_list() == ["new"]
