"""Features as of a moment, built on a real Ray, catalog and S3: nothing that was learned later reaches an earlier row."""

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import current_snapshot_id, read_snapshot
from ray_jobs.features.build import BuildRequest, BuiltFeatures, NothingToBuild, build
from tests.shop import NOON, remember, write_shop

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _on_ray(ray_head: str) -> None:
    """Every build needs one."""


def order(
    number: int, ordered_at: datetime, known_at: datetime, pieces: int, returned: bool | None
) -> dict[str, object]:
    """One version of an order for pens."""
    return {
        "order_id": number,
        "product": "pen",
        "ordered_at": ordered_at,
        "pieces": pieces,
        "returned": returned,
        "_known_at": known_at,
    }


@pytest.fixture
def history(lake: Lake, pipelines: Path) -> Path:
    """Two orders, a price that rises between them, and a correction of the first order that tells whether it came back."""
    prices = [(100, NOON - HOUR), (120, NOON + HOUR)]
    rows: list[dict[str, object]] = [
        {"product": "pen", "cents": cents, "valid_from": known, "_known_at": known} for cents, known in prices
    ]
    remember(lake, pipelines, "prices", rows, "prices")
    remember(lake, pipelines, "orders", [order(1, NOON, NOON, 5, None)], "first")
    remember(lake, pipelines, "orders", [order(2, NOON + 2 * HOUR, NOON + 2 * HOUR, 7, None)], "second")
    remember(lake, pipelines, "orders", [order(1, NOON, NOON + 3 * HOUR, 9, True)], "correction")
    return pipelines


def built(lake: Lake, pipelines: Path, as_of: datetime) -> tuple[BuiltFeatures, pl.DataFrame]:
    """The features as of a moment, and their rows."""
    done = build(BuildRequest(lake=lake, pipeline="shop", as_of=as_of, pipelines=pipelines))
    rows = read_snapshot(lake, lake.table("shop", "features"), done.snapshot_id)
    return done, pl.DataFrame(pl.from_arrow(rows)).sort("order_id")


def test_a_row_is_built_from_what_was_known_when_it_was_predicted_for(lake: Lake, history: Path) -> None:
    done, rows = built(lake, history, NOON + 24 * HOUR)
    assert rows["cents"].to_list() == [100, 120]
    assert rows["pieces"].to_list() == [5, 7], "the correction to 9 pieces came too late for the prediction"
    assert rows["_known_at"].to_list() == [NOON, NOON + 2 * HOUR]
    assert rows["returned"].to_list() == [1.0, None], "and in time for the label"
    assert rows["_label_known_at"].to_list() == [NOON + 3 * HOUR, NOON + 2 * HOUR]
    assert (done.rows, done.labelled_rows, done.already) == (2, 1, False)


def test_rows_and_labels_that_became_known_later_are_not_there(lake: Lake, history: Path) -> None:
    _, rows = built(lake, history, NOON + 2 * HOUR - timedelta(microseconds=1))
    assert rows["order_id"].to_list() == [1]
    done, rows = built(lake, history, NOON + 2 * HOUR)
    assert rows["returned"].to_list() == [None, None]
    assert (done.rows, done.labelled_rows) == (2, 0)
    assert rows.schema["returned"] == pl.Float64


def test_a_rerun_finds_its_snapshot_and_new_rows_make_another(lake: Lake, history: Path) -> None:
    first, rows = built(lake, history, NOON + 24 * HOUR)
    again, _ = built(lake, history, NOON + 24 * HOUR)
    assert again == first.model_copy(update={"already": True})
    remember(lake, history, "orders", [order(3, NOON + 4 * HOUR, NOON + 4 * HOUR, 1, False)], "third")
    more, after = built(lake, history, NOON + 24 * HOUR)
    assert more.snapshot_id != first.snapshot_id
    assert current_snapshot_id(lake, lake.table("shop", "features")) == more.snapshot_id
    assert after["order_id"].to_list() == [1, 2, 3]
    assert after.filter(pl.col("order_id") < 3).equals(rows), "rows of before are built as before"
    before = read_snapshot(lake, lake.table("shop", "features"), first.snapshot_id)
    assert before.num_rows == 2


def test_before_the_first_row_nothing_is_built_and_the_message_says_what_to_run(lake: Lake, pipelines: Path) -> None:
    with pytest.raises(NothingToBuild, match=r"no row of 'orders' was known by 2024.*Nothing was written. Run ingest"):
        built(lake, pipelines, NOON)
    assert current_snapshot_id(lake, lake.table("shop", "features")) is None


def test_a_constant_that_features_read_is_built_anew(lake: Lake, history: Path) -> None:
    moment = NOON + 24 * HOUR
    text = (history / "shop.py").read_text()
    write_shop(
        history,
        text.replace("def features", "LIM = 1\n\n\ndef features").replace('"pieces",', 'pl.col("pieces") + LIM,'),
    )
    _, before = built(lake, history, moment)
    write_shop(history, (history / "shop.py").read_text().replace("LIM = 1", "LIM = 2"))
    again, after = built(lake, history, moment)
    assert (again.already, again.stale) == (False, ["pieces"])
    assert (after["pieces"] - before["pieces"]).to_list() == [1, 1]
