"""The one committer: every change of every table goes through here, once per batch id, or not at all.

The loop is: reload the table; is the batch id among its ancestors? then it is done; do the caller's expectations
hold? else stop; commit rows and properties in one transaction. pyiceberg's own retry is off, because it rebases an
append without asking whether the batch is already there (two holders of one batch doubled it 40 times of 40).
Whatever an attempt ended in (a conflict, a lost answer, a server that went away), the next step is to look.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    ServerError,
    ServiceUnavailableError,
    TooManyRequestsError,
)
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table, Transaction
from sqlalchemy.exc import DBAPIError

from perennial.faults import fault_point
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import Identifier, dotted, write_files

BATCH_ID = "perennial.batch-id"
TRIES = 30
DEADLINE_SECONDS = 300.0
_RETRIED = (
    CommitFailedException,
    CommitStateUnknownException,
    ServerError,
    ServiceUnavailableError,
    TooManyRequestsError,
    OSError,
    DBAPIError,
)
_HOPELESS = (
    "ACCESS_DENIED",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "NoSuchBucket",
    "disk is full",
    "No space left",
)

Expectation = Callable[[Table], None]
"""Looks at the freshly loaded table, just before the commit that builds on it; raises to stop the commit."""


class CommitUnfinished(RuntimeError):
    """The deadline passed and the batch is not in the table; its data files are on S3 and no table refers to them."""


@dataclass(frozen=True)
class Committed:
    """Where a batch is now. `already`: an earlier attempt, or another run, had committed it."""

    snapshot_id: int
    already: bool


def append_once(
    lake: Lake,
    identifier: Identifier,
    rows: pa.Table | Sequence[DataFile],
    key: str,
    *,
    summary: dict[str, str] | None = None,
    properties: dict[str, str] | None = None,
    expect: Expectation | None = None,
) -> Committed:
    """Append rows, or data files already written, exactly once under the batch id `key`.

    Args:
        summary: more of the snapshot's summary, with keys `perennial.*`.
        properties: table properties set in the same transaction: they outlive the snapshot's expiry.
        expect: what must hold of the table that this commit builds on.

    Raises:
        CommitUnfinished: 30 tries or 5 minutes were not enough. Running it again is safe.
    """
    table = lake.catalog().load_table(identifier)
    done = find_batch(table, key)
    if done is not None:
        return Committed(done, already=True)
    files = write_files(table, rows, key) if isinstance(rows, pa.Table) else list(rows)

    def change(transaction: Transaction, notes: dict[str, str]) -> None:
        with transaction.update_snapshot(snapshot_properties=notes).fast_append() as append:
            for file in files:
                append.append_data_file(file)

    return _commit(lake, identifier, key, change, summary or {}, properties or {}, expect)


def replace_once(
    lake: Lake,
    identifier: Identifier,
    files: Sequence[DataFile],
    key: str,
    *,
    summary: dict[str, str] | None = None,
) -> Committed:
    """Replace the whole table by data files already written, exactly once under the batch id `key`."""

    def change(transaction: Transaction, notes: dict[str, str]) -> None:
        current = [task.file for task in transaction._table.scan().plan_files()]
        with transaction.update_snapshot(snapshot_properties=notes).overwrite() as overwrite:
            for file in current:
                overwrite.delete_data_file(file)
            for file in files:
                overwrite.append_data_file(file)

    return _commit(lake, identifier, key, change, summary or {}, {}, None)


def find_batch(table: Table, key: str) -> int | None:
    """The snapshot that committed the batch `key`, among the ancestors of the table's current snapshot."""
    by_id = {snapshot.snapshot_id: snapshot for snapshot in table.metadata.snapshots}
    snapshot = table.current_snapshot()
    while snapshot is not None:
        if snapshot.summary and snapshot.summary.additional_properties.get(BATCH_ID) == key:
            return snapshot.snapshot_id
        snapshot = by_id.get(snapshot.parent_snapshot_id) if snapshot.parent_snapshot_id else None
    return None


def _commit(
    lake: Lake,
    identifier: Identifier,
    key: str,
    change: Callable[[Transaction, dict[str, str]], None],
    summary: dict[str, str],
    properties: dict[str, str],
    expect: Expectation | None,
) -> Committed:
    started = time.monotonic()
    last: Exception | None = None
    for attempt in range(TRIES):
        if time.monotonic() - started > DEADLINE_SECONDS:
            break
        try:
            table = lake.catalog().load_table(identifier)
            done = find_batch(table, key)
            if done is not None:
                return Committed(done, already=last is None)
            if expect:
                expect(table)
            transaction = table.transaction()
            change(transaction, {BATCH_ID: key, **summary})
            if properties:
                transaction.set_properties(properties)
            # pyiceberg would delete what an attempt wrote as soon as it hears of a conflict. A conflict may be the echo
            # of our own commit, which a gateway sent twice: then those files are the table's. `maintain` removes others.
            transaction._snapshot_producers.clear()
            committed = transaction.commit_transaction().current_snapshot()
            fault_point("swapped")
            assert committed is not None
            return Committed(committed.snapshot_id, already=False)
        except _RETRIED as error:
            if any(word in str(error) for word in _HOPELESS):
                raise
            last = error
            time.sleep(random.uniform(0, min(5.0, 0.05 * 2**attempt)))  # noqa: S311 - full jitter
    raise CommitUnfinished(
        f"batch {key} is not in {dotted(identifier)} after {time.monotonic() - started:.0f} s; the last attempt said: "
        f"{type(last).__name__}: {last}. Nothing of it is readable and its files are kept. Run the flow again."
    ) from last
