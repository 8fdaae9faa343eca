"""What a commit costs must not depend on those before it: counted in snapshots, manifests and bytes, not in seconds."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.table import Table

from perennial.lakehouse.commit import append_once, expire_snapshots
from perennial.lakehouse.history import BATCHES, KEPT_SNAPSHOTS
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.quarantine import OUTBOX, finish_quarantine
from perennial.lakehouse.raw import QUARANTINE, raw_schema
from perennial.lakehouse.staging import stage_files
from perennial.lakehouse.tables import Identifier, SnapshotExpired, ensure_table, read_snapshot, write_files
from perennial.lakehouse.tags import tag_snapshot
from tests.shop import NOON, shop

NUMBERS = pa.schema([("number", pa.int64())])


def made(lake: Lake, **properties: str) -> Table:
    """The table."""
    return ensure_table(lake, lake.table("shop", "numbers"), NUMBERS, properties)


def append(lake: Lake, number: int, key: str | None = None) -> int:
    """Append one number in a batch of its own; return the snapshot."""
    rows = pa.table({"number": [number]}, NUMBERS)
    return append_once(lake, lake.table("shop", "numbers"), rows, key or f"batch-{number}").snapshot_id


def pass_time(lake: Lake, commits: int, start: int = 0, identifier: Identifier | None = None) -> None:
    """Commits that bring nothing."""
    for number in range(start, start + commits):
        append_once(lake, identifier or lake.table("shop", "numbers"), [], f"nothing-{number}")


def size(lake: Lake) -> tuple[int, int, int]:
    """Snapshots in the table's metadata, manifests in its list, bytes of the metadata but for the batch ids."""
    table = made(lake)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    content = len(lake.files().cat_file(table.metadata_location))
    return (
        len(table.metadata.snapshots),
        len(snapshot.manifests(table.io)),
        content - len(table.properties[BATCHES]),
    )


def test_a_tables_metadata_stops_growing_with_its_commits(lake: Lake) -> None:
    made(lake, **{"write.metadata.previous-versions-max": "10"})
    for number in range(40):
        append(lake, number)
    _, _, bytes_then = size(lake)
    for number in range(40, 70):
        append(lake, number)
    snapshots, manifests, bytes_now = size(lake)
    assert snapshots == KEPT_SNAPSHOTS
    assert manifests <= 21
    assert bytes_now < bytes_then * 1.05
    assert sorted(read_snapshot(lake, lake.table("shop", "numbers"))["number"].to_pylist()) == list(range(70))


def test_a_batch_is_known_after_its_snapshot_has_expired(lake: Lake) -> None:
    made(lake)
    first = append(lake, 1, "a")
    pass_time(lake, KEPT_SNAPSHOTS)
    assert made(lake).snapshot_by_id(first) is None
    again = append_once(lake, lake.table("shop", "numbers"), pa.table({"number": [1]}, NUMBERS), "a")
    assert (again.snapshot_id, again.already) == (first, True)
    assert read_snapshot(lake, lake.table("shop", "numbers"))["number"].to_pylist() == [1]


def test_a_tag_that_is_put_on_a_snapshot_while_it_expires_keeps_it(lake: Lake) -> None:
    table = made(lake)
    first = append(lake, 1)
    pass_time(lake, KEPT_SNAPSHOTS - 1)
    tags = iter(["version-1"])

    def tag_it_now(table: Table) -> None:
        for tag in tags:  # the first attempt only
            assert table.snapshot_by_id(first)
            tag_snapshot(lake, lake.table("shop", "numbers"), first, tag)

    append_once(lake, lake.table("shop", "numbers"), [], "last", expect=tag_it_now)
    pass_time(lake, 3, start=100)
    table = made(lake)
    assert table.metadata.refs["version-1"].snapshot_id == first
    assert table.scan(snapshot_id=first).to_arrow()["number"].to_pylist() == [1]


def test_a_snapshot_that_has_just_expired_is_read_and_a_forgotten_one_is_refused(lake: Lake) -> None:
    made(lake, **{"write.metadata.previous-versions-max": "4"})
    first = append(lake, 1)
    pass_time(lake, KEPT_SNAPSHOTS)
    append(lake, 2)
    assert made(lake).snapshot_by_id(first) is None
    assert read_snapshot(lake, lake.table("shop", "numbers"), first)["number"].to_pylist() == [1]
    pass_time(lake, 5, start=100)
    with pytest.raises(SnapshotExpired, match=r"has expired.*tag a snapshot"):
        read_snapshot(lake, lake.table("shop", "numbers"), first)


def test_expiry_keeps_the_newest_and_the_tagged_snapshots(lake: Lake) -> None:
    made(lake)
    tagged, *others = [append(lake, number) for number in range(6)]
    tag_snapshot(lake, lake.table("shop", "numbers"), tagged, "version-1")
    assert expire_snapshots(lake, lake.table("shop", "numbers"), NOON, keep=2) == 0  # all are younger
    tomorrow = NOON.replace(year=9999)
    assert expire_snapshots(lake, lake.table("shop", "numbers"), tomorrow, keep=2) == 3
    assert {s.snapshot_id for s in made(lake).metadata.snapshots} == {tagged, *others[-2:]}
    assert sorted(read_snapshot(lake, lake.table("shop", "numbers"))["number"].to_pylist()) == list(range(6))


def test_an_outbox_finished_long_ago_is_not_appended_by_a_run_that_slept(lake: Lake, pipelines: Path) -> None:
    raw, quarantine = lake.table("shop", "raw_orders"), lake.table("shop", "quarantine")
    ensure_table(lake, raw, raw_schema(shop(pipelines).source("orders")))
    table = ensure_table(lake, quarantine, QUARANTINE)
    row = pa.Table.from_pylist([{"source": "orders", "batch_id": "b1"}], QUARANTINE)
    manifest = stage_files(lake, table, write_files(table, row, "b1"), "b1")
    append_once(lake, raw, [], "b1", properties={OUTBOX: f"b1 {manifest}"})
    asleep = SleepyLake.model_validate(lake.model_dump())
    assert finish_quarantine(asleep, "shop", "orders") is False
    assert read_snapshot(lake, quarantine)["batch_id"].to_pylist() == ["b1"]


class SleepyLake(Lake, frozen=True):
    """The lake of a run that is stopped when it has read the outbox, and wakes more than a thousand batches later."""

    def table(self, pipeline: str, name: str) -> tuple[str, str]:
        """Called for the second time with `quarantine` when the outbox was read."""
        identifier = super().table(pipeline, name)
        _CALLS.append(name)
        if _CALLS.count("quarantine") == 2:
            awake = Lake.model_validate(self.model_dump())
            assert finish_quarantine(awake, pipeline, "orders") is True
            forgetful = awake.catalog().load_table(identifier)
            pass_time(awake, KEPT_SNAPSHOTS, identifier=identifier)
            with forgetful.refresh().transaction() as transaction:
                transaction.set_properties({BATCHES: ""})
        return identifier


_CALLS: list[str] = []
