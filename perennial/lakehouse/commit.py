"""The one committer: every change of every table goes through here, once per batch id, or not at all.

The loop is: reload the table; is the batch id among its ancestors? then it is done; do the caller's expectations
hold? else stop; commit rows and properties in one transaction, and let the oldest snapshots go (`history.py`).
pyiceberg's own retry is off, because it rebases an append without asking whether the batch is already there (two
holders of one batch doubled it 40 times of 40). Whatever an attempt ended in (a conflict, a lost answer, a server that
went away), the next step is to look.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
from pyiceberg.exceptions import ValidationException
from pyiceberg.manifest import DataFile, ManifestContent
from pyiceberg.table import Table, Transaction
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update import AssertRefSnapshotId, SetPropertiesUpdate

from perennial.faults import fault_point
from perennial.lakehouse.attempts import until_it_lands
from perennial.lakehouse.condemned import FilesGone, refuse_condemned
from perennial.lakehouse.history import (
    BATCH_ID,
    KEPT_SNAPSHOTS,
    LeanTransaction,
    expire,
    find_batch,
    remember_batch,
    surplus_snapshots,
)
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.manifests import TieredAppend
from perennial.lakehouse.tables import PROPERTIES, Identifier, dotted, write_files

Expectation = Callable[[Table], None]
"""Looks at the freshly loaded table, just before the commit that builds on it; raises to stop the commit."""


class PartitionsChanged(RuntimeError):
    """The table is partitioned otherwise than the files that were to be committed. Nothing was."""


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
    lasting: bool = False,
) -> Committed:
    """Append rows, or data files already written, exactly once under the batch id `key`.

    The committer remembers the last thousand batch ids of a table. A caller whose batch may be tried again after more
    commits than that asks the rows, or a position, in `expect` (docs/decisions/0010-expiry-and-batch-ids.md).

    Args:
        summary: more of the snapshot's summary, with keys `perennial.*`.
        properties: table properties set in the same transaction: they outlive the snapshot's expiry.
        expect: what must hold of the table that this commit builds on.
        lasting: remember the batch id for ever; for tables with few such commits, each makes the next ones dearer.

    Raises:
        FilesGone: the files lay unpublished for so long that a sweep has taken them. Run the flow again.
        PartitionsChanged: the table is partitioned otherwise since the files were written. Run the flow again.
        CommitUnfinished: 30 tries or 5 minutes were not enough. Running it again is safe.
    """
    table = lake.catalog().load_table(identifier)
    done = find_batch(table, key)
    if done is not None:
        return Committed(done, already=True)
    files = write_files(table, rows, key) if isinstance(rows, pa.Table) else list(rows)

    def change(transaction: Transaction, table: Table, notes: dict[str, str]) -> dict[str, str]:
        with TieredAppend(Operation.APPEND, transaction, table.io, snapshot_properties=notes) as append:
            for file in files:
                append.append_data_file(file)
        # one of the snapshots kept goes with each that comes, so the table's metadata stays as small as it is
        expire(transaction, table, surplus_snapshots(table, KEPT_SNAPSHOTS - 1))
        return {**remember_batch(table, key, append.snapshot_id, lasting), **(properties or {})}

    # whatever the properties name must be there too: positions, outboxes
    named = [word for value in (properties or {}).values() for word in value.split() if word.startswith("s3://")]

    def still_there(table: Table) -> None:
        refuse_condemned(table, [*(file.file_path for file in files), *named])
        _refuse_other_partitions(table, files)
        if expect:
            expect(table)

    return _commit(lake, identifier, key, change, summary or {}, still_there, table)


def replace_once(
    lake: Lake,
    identifier: Identifier,
    files: Sequence[DataFile],
    key: str,
    *,
    summary: dict[str, str] | None = None,
) -> Committed:
    """Replace the whole table by data files already written, exactly once under the batch id `key`."""

    def change(transaction: Transaction, table: Table, notes: dict[str, str]) -> dict[str, str]:
        current = [task.file for task in table.scan().plan_files()]
        with transaction.update_snapshot(snapshot_properties=notes).overwrite() as overwrite:
            for file in current:
                overwrite.delete_data_file(file)
            for file in files:
                overwrite.append_data_file(file)
        return {}

    def still_there(table: Table) -> None:
        refuse_condemned(table, [file.file_path for file in files])

    return _commit(lake, identifier, key, change, summary or {}, still_there)


def rewrite_once(
    lake: Lake,
    identifier: Identifier,
    old: Sequence[DataFile],
    new: Sequence[DataFile],
    key: str,
    *,
    summary: dict[str, str] | None = None,
    told: Callable[[Table], tuple[dict[str, str], dict[str, str]]] | None = None,
    expect: Expectation | None = None,
) -> Committed:
    """Put the files `new` in the place of the files `old`, exactly once under the batch id `key`.

    Rows that others append meanwhile stay: the swap builds on the newest snapshot, whichever that is.

    Args:
        told: from the table that the commit builds on, more of the summary and properties set in the same transaction.
        expect: what must hold of that table.

    Raises:
        FilesGone: one of the old files is in the table no longer, or rows of it were deleted by another engine's delete
            files. Putting the new ones in would bring rows back. Nothing was changed; plan again.
    """

    def change(transaction: Transaction, table: Table, notes: dict[str, str]) -> dict[str, str]:
        more, properties = told(table) if told else ({}, {})
        try:
            with transaction.update_snapshot(snapshot_properties={**notes, **more}).overwrite() as overwrite:
                for file in old:
                    overwrite.delete_data_file(file)
                for file in new:
                    overwrite.append_data_file(file)
        except ValidationException as error:
            raise FilesGone(f"{dotted(identifier)}: {error}. Nothing was changed; plan again.") from error
        return properties

    def still_there(table: Table) -> None:
        refuse_condemned(table, [file.file_path for file in new])
        _refuse_other_partitions(table, new)
        if has_delete_files(table):
            raise FilesGone(f"{dotted(identifier)} has delete files of another engine, which must compact it itself.")
        if expect:
            expect(table)

    return _commit(lake, identifier, key, change, summary or {}, still_there)


def set_once(lake: Lake, identifier: Identifier, properties: dict[str, str], expect: Expectation) -> None:
    """Set table properties without a snapshot, such as a position that moved on without rows."""

    def attempt(number: int) -> None:
        table = lake.catalog().load_table(identifier)
        if properties.items() <= table.properties.items():
            return
        refuse_condemned(table, [word for value in properties.values() for word in value.split() if "://" in word])
        expect(table)
        transaction = LeanTransaction(table)
        # a REST server sets properties on whatever stands there, so it is told which snapshot they belong to
        head = AssertRefSnapshotId(ref=MAIN_BRANCH, snapshot_id=table.metadata.current_snapshot_id)
        transaction._stage((SetPropertiesUpdate(updates=properties),), (head,))
        transaction.commit_transaction()

    until_it_lands(attempt, f"properties of {dotted(identifier)} are not set")


def _refuse_other_partitions(table: Table, files: Sequence[DataFile]) -> None:
    # pyiceberg would write them down as files of the partitions of today
    spec = table.spec().spec_id
    if any(file.spec_id != spec for file in files):
        raise PartitionsChanged(
            f"{'.'.join(table.name())} was partitioned otherwise while files for it were written, by a run with another version "
            "of the pipeline's file. Nothing of them was committed. Run the flow again."
        )


def has_delete_files(table: Table) -> bool:
    """Whether another engine deleted rows by writing delete files; we never do."""
    snapshot = table.current_snapshot()
    manifests = snapshot.manifests(table.io) if snapshot else []
    return any(manifest.content == ManifestContent.DELETES for manifest in manifests)


def expire_snapshots(lake: Lake, identifier: Identifier, before: datetime, keep: int) -> int:
    """Let go of snapshots made before a moment, but never of the newest `keep` nor of what a branch or tag needs.

    Returns how many were expired. No file is deleted.
    """

    def attempt(number: int) -> int:
        table = lake.catalog().load_table(identifier)
        old = [s for s in surplus_snapshots(table, keep) if s.timestamp_ms < before.timestamp() * 1000]
        if old:
            transaction = LeanTransaction(table)
            expire(transaction, table, old)
            transaction.commit_transaction()
        return len(old)

    return until_it_lands(attempt, f"old snapshots of {dotted(identifier)} are still there")


def _commit(
    lake: Lake,
    identifier: Identifier,
    key: str,
    change: Callable[[Transaction, Table, dict[str, str]], dict[str, str]],
    summary: dict[str, str],
    expect: Expectation | None,
    loaded: Table | None = None,
) -> Committed:
    def attempt(number: int) -> Committed:
        # A table loaded a moment ago serves the first attempt: had it changed since, the swap would be refused.
        table = loaded if loaded is not None and number == 0 else lake.catalog().load_table(identifier)
        done = find_batch(table, key)
        if done is not None:
            return Committed(done, already=number == 0)
        if expect:
            expect(table)
        transaction = LeanTransaction(table)
        properties = change(transaction, table, {BATCH_ID: key, **summary})
        properties |= {name: value for name, value in PROPERTIES.items() if name not in table.properties}
        properties.pop("format-version", None)
        if properties:
            transaction.set_properties(properties)
        # pyiceberg would delete what an attempt wrote as soon as it hears of a conflict. A conflict may be the echo
        # of our own commit, which a gateway sent twice: then those files are the table's. `maintain` removes others.
        transaction._snapshot_producers.clear()
        committed = transaction.commit_transaction().current_snapshot()
        fault_point("swapped")
        assert committed is not None
        return Committed(committed.snapshot_id, already=False)

    return until_it_lands(attempt, f"batch {key} is not in {dotted(identifier)}")
