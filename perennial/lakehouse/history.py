"""What a table remembers of its past: a few snapshots, many batch ids. A commit costs the same whatever came before it.

pyiceberg writes and copies every snapshot of a table with each commit, so their number is bounded as commits are made.
A batch id is needed for longer than its snapshot: the last thousand live on as a property of the table.
"""

import hashlib
import re
from typing import Literal

from pyiceberg.catalog import MetastoreCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Snapshot, ancestors_of
from pyiceberg.table.update import (
    AssertRefSnapshotId,
    RemoveSnapshotsUpdate,
    ValidatableTableRequirement,
    _apply_table_update,
    _TableMetadataUpdateContext,
)

BATCH_ID = "perennial.batch-id"
"""Key of a snapshot's summary: what it committed."""

BATCHES = "perennial.batches"
"""Table property: `<hash of a batch id>:<its snapshot>` of the last appends, oldest first."""

LASTING_BATCHES = "perennial.lasting-batches"
"""Table property: the same of appends whose batch may be tried again after years. It grows, by 36 bytes each."""

KEPT_BATCHES = 1000
KEPT_SNAPSHOTS = 10


class LeanTransaction(Transaction):
    """A transaction that works its metadata out once per change, and copies none of it.

    pyiceberg does so at every look, some fifteen per commit, and each time copies all snapshots one by one: 25 ms of a
    commit's CPU after ten snapshots and 113 ms after 120.
    """

    _worked_out: tuple[int, TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        """The table's metadata with the changes so far; never to be changed in place."""
        if not self._updates:
            return self._table.metadata
        if self._worked_out is None or self._worked_out[0] != len(self._updates):
            metadata, context = self._table.metadata, _TableMetadataUpdateContext()
            for update in self._updates:
                metadata = _apply_table_update(update, metadata, context)
            self._worked_out = len(self._updates), metadata
        return self._worked_out[1]


class RefsUnchanged(ValidatableTableRequirement):
    """No branch or tag was made, moved or dropped since: expiring a snapshot would drop a tag put on it meanwhile.

    The main branch has a requirement of its own.
    """

    type: Literal["perennial-refs-unchanged"] = "perennial-refs-unchanged"
    refs: dict[str, int]

    @classmethod
    def of(cls, metadata: TableMetadata) -> "RefsUnchanged":
        """The refs as they are."""
        return cls(refs={name: ref.snapshot_id for name, ref in metadata.refs.items() if name != MAIN_BRANCH})

    def validate(self, base_metadata: TableMetadata | None) -> None:  # type: ignore[override]  # pyiceberg's own name
        """Called by the catalog on the metadata it is about to replace."""
        if base_metadata is None or RefsUnchanged.of(base_metadata).refs != self.refs:
            raise CommitFailedException("a branch or tag of the table changed since its snapshots were looked at")


def expire(transaction: Transaction, table: Table, snapshots: list[Snapshot]) -> None:
    """Drop snapshots from the table's metadata, in this transaction. No file is deleted."""
    if not snapshots:
        return
    update = RemoveSnapshotsUpdate(snapshot_ids=[snapshot.snapshot_id for snapshot in snapshots])
    head = transaction.table_metadata.current_snapshot_id
    requirements = (AssertRefSnapshotId(ref=MAIN_BRANCH, snapshot_id=head), RefsUnchanged.of(table.metadata))
    transaction._stage((update,), requirements)  # type: ignore[arg-type]  # pyiceberg's union knows only its own


def surplus_snapshots(table: Table, keep: int = KEPT_SNAPSHOTS) -> list[Snapshot]:
    """Ancestors of the current snapshot beyond the newest `keep` that no branch or tag needs.

    Only where pyiceberg itself swaps the metadata: a REST server cannot be told `RefsUnchanged`, and cares for its
    tables itself.
    """
    if not isinstance(table.catalog, MetastoreCatalog):
        return []
    metadata = table.metadata
    needed = {ref.snapshot_id for ref in metadata.refs.values()}
    for name, ref in metadata.refs.items():
        if name != MAIN_BRANCH and ref.snapshot_ref_type == "branch":
            needed |= {s.snapshot_id for s in ancestors_of(metadata.snapshot_by_id(ref.snapshot_id), metadata)}
    ancestors = list(ancestors_of(metadata.current_snapshot(), metadata))
    return [snapshot for snapshot in ancestors[keep:] if snapshot.snapshot_id not in needed]


def find_batch(table: Table, key: str) -> int | None:
    """The snapshot that committed the batch `key`, among the current one's ancestors or the remembered appends.

    The snapshot of a remembered append may have expired; its rows are in the table all the same.
    """
    for snapshot in ancestors_of(table.current_snapshot(), table.metadata):
        if snapshot.summary and snapshot.summary.additional_properties.get(BATCH_ID) == key:
            return snapshot.snapshot_id
    remembered = re.compile(rf"\b{_short(key)}:(\d+)")
    found = (remembered.search(table.properties.get(name, "")) for name in (BATCHES, LASTING_BATCHES))
    return next((int(match.group(1)) for match in found if match), None)


def remember_batch(table: Table, key: str, snapshot_id: int, lasting: bool) -> dict[str, str]:
    """The property that remembers one batch more: among the last thousand, or for ever."""
    name = LASTING_BATCHES if lasting else BATCHES
    words = [*table.properties.get(name, "").split(), f"{_short(key)}:{snapshot_id}"]
    return {name: " ".join(words if lasting else words[-KEPT_BATCHES:])}


def _short(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]
