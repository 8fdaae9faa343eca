"""Against a real catalog, in SQLite and in PostgreSQL, and a real S3 server; two threads stand for two writers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pyarrow as pa
import pytest
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException, ServiceUnavailableError
from pyiceberg.table import Table
from sqlalchemy.exc import OperationalError

from perennial.lakehouse.commit import Committed, append_once, replace_once
from perennial.lakehouse.decisions import Decision, claim_decision, read_decisions, record_decision
from perennial.lakehouse.history import BATCH_ID
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import POSITION, PositionMoved, expect_position, plan_batch, position_after
from perennial.lakehouse.raw import raw_table
from perennial.lakehouse.sources.files import FilePart
from perennial.lakehouse.tables import ensure_table, read_snapshot, write_files
from perennial.rules.schema import SchemaRefused
from tests.conftest import on_postgres
from tests.shop import NOON, orders, put, shop

NUMBERS = pa.schema([("number", pa.int64())])


def numbers(*values: int) -> pa.Table:
    """Rows."""
    return pa.table({"number": list(values)}, NUMBERS)


def stored(lake: Lake) -> list[int]:
    """The numbers in the table."""
    return sorted(read_snapshot(lake, lake.table("shop", "numbers"))["number"].to_pylist())


def append(lake: Lake, key: str, *values: int, expect: Callable[[Table], None] | None = None) -> Committed:
    """Append numbers under a batch id."""
    return append_once(lake, lake.table("shop", "numbers"), numbers(*values), key, expect=expect)


def made(lake: Lake) -> Table:
    """The table."""
    return ensure_table(lake, lake.table("shop", "numbers"), NUMBERS)


def test_a_batch_appended_twice_is_there_once(any_lake: Lake) -> None:
    made(any_lake)
    first = append(any_lake, "a", 1, 2)
    append(any_lake, "b", 3)
    assert append(any_lake, "a", 1, 2) == Committed(first.snapshot_id, already=True)
    assert stored(any_lake) == [1, 2, 3]


def test_two_holders_of_one_batch_append_it_once(any_lake: Lake) -> None:
    made(any_lake)
    together = Barrier(2)

    def once_both_have_looked(key: str) -> Callable[[Table], None]:
        waited: list[str] = []

        def check(table: Table) -> None:
            if not waited:  # the first attempt only: both have seen a table without the batch
                waited.append(key)
                together.wait(30)

        return check

    with ThreadPoolExecutor(2) as pool:
        for number in range(3):
            done = list(
                pool.map(
                    lambda _, n=number: append(any_lake, f"batch-{n}", n, expect=once_both_have_looked(f"{n}")),
                    range(2),
                )
            )
            assert done[0].snapshot_id == done[1].snapshot_id
    assert stored(any_lake) == [0, 1, 2]


def test_all_commits_of_two_writers_land(any_lake: Lake) -> None:
    made(any_lake)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda w: [append(any_lake, f"{w}-{n}", w * 100 + n) for n in range(10)], range(2)))
    assert stored(any_lake) == [*range(10), *range(100, 110)]


def test_an_expectation_that_does_not_hold_stops_the_commit(any_lake: Lake) -> None:
    made(any_lake)
    append(any_lake, "a", 1)

    def is_empty(table: Table) -> None:
        if table.current_snapshot() is not None:
            raise LookupError("the table is not empty any more")

    with pytest.raises(LookupError, match="not empty"):
        append(any_lake, "b", 2, expect=is_empty)
    assert stored(any_lake) == [1]


class Deaf:
    """A catalog whose answers to the first commits get lost: the commit stands, and the caller hears an error."""

    def __init__(self, catalog: object, lost_answers: int) -> None:
        self.catalog, self.lost_answers = catalog, lost_answers
        self.error: Exception = CommitStateUnknownException("502: the gateway gave up")

    def __getattr__(self, name: str) -> object:
        return getattr(self.catalog, name)

    def load_table(self, identifier: tuple[str, str]) -> Table:
        table = self.catalog.load_table(identifier)  # type: ignore[attr-defined]
        table.catalog = self
        return table

    def commit_table(self, *arguments: object) -> object:
        answer = self.catalog.commit_table(*arguments)  # type: ignore[attr-defined]
        if self.lost_answers:
            self.lost_answers -= 1
            raise self.error
        return answer


class DeafLake(Lake, frozen=True):
    """A lake whose catalog loses answers."""

    def catalog(self) -> Deaf:  # type: ignore[override]  # it does all that a catalog does
        return _DEAF.setdefault(self.environment, Deaf(super().catalog(), lost_answers=1))


_DEAF: dict[str, Deaf] = {}


@pytest.mark.parametrize(
    "error",
    [
        CommitStateUnknownException("502: the gateway gave up"),
        CommitFailedException("409, to a request that a gateway sent twice"),
        ServiceUnavailableError("503"),
        OperationalError("COMMIT", None, Exception("server closed the connection unexpectedly")),
        TimeoutError("read timed out"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_answer_lost_after_the_commit_is_not_committed_again(any_lake: Lake, error: Exception) -> None:
    made(any_lake)
    deaf = DeafLake.model_validate(any_lake.model_dump())
    deaf.catalog().error = error
    committed = append(deaf, "a", 1)
    assert _DEAF[deaf.environment].lost_answers == 0
    assert stored(any_lake) == [1]
    snapshots = made(any_lake).metadata.snapshots
    assert [snapshot.snapshot_id for snapshot in snapshots] == [committed.snapshot_id]
    assert snapshots[0].summary
    assert snapshots[0].summary.additional_properties[BATCH_ID] == "a"


def test_a_writer_that_stopped_within_its_swap_holds_nobody_up_for_long(lake: Lake, postgres: str) -> None:
    lake = on_postgres(lake, postgres)
    with lake.catalog().engine.connect() as session:  # type: ignore[attr-defined]  # a SQL catalog has one
        shown = [
            session.exec_driver_sql(f"SHOW {name}").scalar()
            for name in ("lock_timeout", "idle_in_transaction_session_timeout")
        ]
    assert shown == ["10s", "1min"]
    sooner = "options=-c idle_in_transaction_session_timeout=500ms -c lock_timeout=200ms".replace(" ", "%20")
    lake = lake.model_copy(update={"catalog_uri": f"{lake.catalog_uri}&{sooner}"})
    made(lake)
    with lake.catalog().engine.connect() as stopped:  # type: ignore[attr-defined]  # as above
        stopped.exec_driver_sql("UPDATE iceberg_tables SET previous_metadata_location = 'never committed'")
        append(lake, "a", 1)
        stopped.invalidate()
    assert stored(lake) == [1]


def test_a_table_replaced_twice_by_one_batch_holds_it_once(any_lake: Lake) -> None:
    table = made(any_lake)
    append(any_lake, "old", 1, 2)
    for again in (False, True):
        files = write_files(table, numbers(7), "new")
        assert replace_once(any_lake, any_lake.table("shop", "numbers"), files, "new").already is again
    assert stored(any_lake) == [7]


def test_a_batch_planned_before_another_was_committed_is_refused(any_lake: Lake, pipelines: Path) -> None:
    pipeline = shop(pipelines)
    put(any_lake, "orders/1.csv", orders(1, 3))
    batch = plan_batch(any_lake, pipeline, pipeline.source("orders"), NOON)
    identifier = raw_table(any_lake, "shop", "orders")
    properties = {POSITION: position_after(any_lake, batch)}
    append_once(any_lake, identifier, [], batch.batch_id, properties=properties, expect=expect_position(batch))
    with pytest.raises(PositionMoved, match=r"Nothing of this batch was committed; running ingest again brings it in"):
        append_once(any_lake, identifier, [], "other", properties=properties, expect=expect_position(batch))
    assert plan_batch(any_lake, pipeline, pipeline.source("orders"), NOON).is_empty
    put(any_lake, "orders/2.csv", orders(4, 3))
    following = plan_batch(any_lake, pipeline, pipeline.source("orders"), NOON)
    assert ([part.path for part in following.parts if isinstance(part, FilePart)], following.previous) == (
        ["orders/2.csv"],
        properties[POSITION],
    )


def test_of_four_that_claim_a_decision_exactly_one_may_act(any_lake: Lake) -> None:
    decision = Decision(decision_id="d1", pipeline="shop", kind="monitor", verdict="drift", reason="", as_of=NOON)
    record_decision(any_lake, decision)
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda n: claim_decision(any_lake, "d1", f"run-{n}", NOON), range(4)))
    assert sorted(won) == [False, False, False, True]
    winner = won.index(True)
    assert [claim_decision(any_lake, "d1", f"run-{n}", NOON) for n in range(4)] == [n == winner for n in range(4)]
    assert sorted(read_decisions(any_lake, "shop")["kind"]) == ["claim", "monitor"]


def test_a_column_may_be_added_and_must_keep_its_type(any_lake: Lake) -> None:
    made(any_lake)
    append(any_lake, "a", 1)
    ensure_table(any_lake, any_lake.table("shop", "numbers"), pa.schema([*NUMBERS, ("word", pa.string())]))
    append(any_lake, "b", 2)
    assert stored(any_lake) == [1, 2]
    with pytest.raises(SchemaRefused, match=r"Nothing was changed(?s:.)*number +long +string +other type"):
        ensure_table(any_lake, any_lake.table("shop", "numbers"), pa.schema([("number", pa.string())]))
