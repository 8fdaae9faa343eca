"""The flow against a real Prefect server, Ray, S3 and catalog."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.ingest import ingest
from flows.maintain import maintain
from flows.settings import Settings
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.leftovers import note_state
from perennial.lakehouse.tables import read_snapshot, write_files
from perennial.spec import PipelineError, load_pipeline
from tests.shop import FILE, NOON, orders, put, write_shop

UPKEEP = 'upkeep=Upkeep(keep={{"orders": timedelta(days={days})}}),\n    model='
WITH_UPKEEP = FILE.replace("TabularModel, Utc", "TabularModel, Upkeep, Utc")


def artifact(key: str) -> str:
    """The newest artifact of a key."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    newest = max(found, key=lambda one: one.updated or datetime.min.replace(tzinfo=UTC))
    return f"{newest.description} {newest.data}"


def test_a_pipelines_tables_are_compacted_aged_and_swept(settings: Settings, lake: Lake, pipelines: Path) -> None:
    for number in range(5):
        put(lake, f"orders/{number}.csv", orders(1 + number * 10, 10))
        ingest("shop", "orders", NOON, settings=settings)
    table = lake.catalog().load_table(lake.table("shop", "raw_orders"))
    killed = write_files(table, read_snapshot(lake, lake.table("shop", "raw_orders")), "killed")[0].file_path
    note_state(lake, lake.table("shop", "raw_orders"), datetime.now(UTC) - timedelta(days=3))
    then = (datetime.now(UTC) - timedelta(days=5)).timestamp()
    lake.files().pipe_file(killed, lake.files().cat_file(killed), Metadata={"mtime": str(then)})

    cared = {one.table.split(".")[1]: one for one in maintain("shop", settings=settings)}
    assert (cared["raw_orders"].files_before, cared["raw_orders"].files_after) == (5, 1)
    raw = read_snapshot(lake, lake.table("shop", "raw_orders"))
    assert sorted(raw["order_id"].to_pylist()) == list(range(1, 51))
    assert lake.files().exists(killed)  # listed only
    assert "1 objects" in artifact("leftovers-shop")
    assert killed.rsplit("/", 1)[1].removesuffix(".parquet") in artifact("leftovers-shop").replace("\\", "")

    write_shop(pipelines, WITH_UPKEEP.replace("model=", UPKEEP.format(days=30)))
    cared = {one.table.split(".")[1]: one for one in maintain("shop", delete=True, settings=settings)}
    assert not lake.files().exists(killed)
    assert cared["raw_orders"].dropped_rows == 50  # of 2024
    assert len(read_snapshot(lake, lake.table("shop", "raw_orders"))) == 0
    assert ingest("shop", "orders", NOON, settings=settings) == {"orders": 0}  # the position knows what had arrived


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ('{"order": timedelta(days=1)}', r"upkeep keeps rows of 'order', which is not there; there are \['orders'"),
        ('{"orders": timedelta(0)}', r"rows of 'orders' cannot be kept for 0:00:00"),
        ('{"prices": timedelta(days=1)}', r"source 'prices' has no event_time to age its rows by"),
    ],
)
def test_a_mistake_in_the_upkeep_is_found_when_the_pipeline_is_loaded(tmp_path: Path, keep: str, message: str) -> None:
    folder = write_shop(
        tmp_path / "mistaken", WITH_UPKEEP.replace("model=", f"upkeep=Upkeep(keep={keep}),\n    model=")
    )
    with pytest.raises(PipelineError, match=message):
        load_pipeline("shop", folder)


def test_a_pipeline_without_tables_needs_no_care(settings: Settings) -> None:
    assert maintain("shop", settings=settings) == []
