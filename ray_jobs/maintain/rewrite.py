"""Compact a table, or drop the rows whose time is over, on Ray: files are written again, then swapped in one commit."""

import hashlib
from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa
import ray
from pydantic import BaseModel, Field
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from perennial.lakehouse.commit import has_delete_files, rewrite_once
from perennial.lakehouse.condemned import FilesGone
from perennial.lakehouse.data_files import TARGET_BYTES
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.rewrite import not_older, plan_compaction, plan_retention, rewrite
from perennial.lakehouse.staging import stage_files, staged_files

PLANS = 5  # how often another run may be faster before this one leaves the field to it
GROUPS = 64  # of files per commit: what a kill costs, and what one commit names


class RewriteRequest(BaseModel, frozen=True):
    """Which table; what is dropped from it before it is compacted.

    Args:
        column: the instant that rows are aged by; None: nothing is dropped.
        cutoff: rows older than this are dropped.
    """

    lake: Lake
    namespace: str
    table: str
    column: str | None = None
    cutoff: datetime | None = None
    target_bytes: int = Field(TARGET_BYTES, ge=1)


class Rewritten(BaseModel, frozen=True):
    """What was done to a table: files before and after, of those that were touched, and rows dropped."""

    files_before: int = 0
    files_after: int = 0
    dropped_rows: int = 0

    def plus(self, other: "Rewritten") -> "Rewritten":
        """Both together."""
        return Rewritten(**{name: getattr(self, name) + getattr(other, name) for name in Rewritten.model_fields})


def rewrite_table(request: RewriteRequest) -> Rewritten:
    """Drop old rows, then compact; readers see the table before or after, and rows appended meanwhile stay.

    Raises:
        FilesGone: others replaced the same files each time; nothing was lost, and the next run goes on.
    """
    done = Rewritten()
    for plan in range(1, PLANS + 1):
        try:
            while (swapped := _next(request)) is not None:
                done = done.plus(swapped)
            return done
        except FilesGone:
            if plan == PLANS:
                raise
    raise AssertionError("the loop returns or raises")


def _next(request: RewriteRequest) -> Rewritten | None:
    """Make the swap that is due, if one is."""
    table = _load(request)
    if table.current_snapshot() is None or has_delete_files(table):
        return None  # nothing there, or another engine's merge-on-read table, which that engine must compact
    if request.column and request.cutoff:
        whole, mixed = plan_retention(table, request.column, request.cutoff)
        if whole or mixed:
            return _swap(request, table, whole, mixed[:GROUPS])
    groups = plan_compaction(table, request.target_bytes)[:GROUPS]
    return _swap(request.model_copy(update={"column": None}), table, [], groups) if groups else None


class RewriteFiles:
    """Writes one group of files again and yields the manifest of what it wrote."""

    def __init__(self, request: RewriteRequest, key: str) -> None:
        self.request, self.key = request, key

    def __call__(self, block: pa.Table) -> pa.Table:
        """See the class."""
        request, table = self.request, _load(self.request)
        keep = not_older(request.column, request.cutoff) if request.column and request.cutoff else None
        manifests = [
            stage_files(request.lake, table, rewrite(table, staged_files(table, [group]), keep), self.key)
            for group in block["group"].to_pylist()
        ]
        return pa.table({"manifest": manifests})


def _swap(
    request: RewriteRequest, table: Table, whole: Sequence[DataFile], groups: Sequence[Sequence[DataFile]]
) -> Rewritten:
    old = [*whole, *(file for group in groups for file in group)]
    work = "retain" if request.column else "compact"
    key = f"{work}/{hashlib.sha256(chr(10).join(sorted(f.file_path for f in old)).encode()).hexdigest()[:16]}"
    new: list[DataFile] = []
    if groups:
        named = [{"group": stage_files(request.lake, table, group, key)} for group in groups]
        written = ray.data.from_items(named, override_num_blocks=len(named)).map_batches(
            RewriteFiles(request, key), batch_format="pyarrow", batch_size=1, num_cpus=1
        )
        new = staged_files(table, [row["manifest"] for row in written.take_all() if row["manifest"]])
    rewrite_once(request.lake, (request.namespace, request.table), old, new, key, summary={"perennial.work": work})
    dropped = sum(file.record_count for file in old) - sum(file.record_count for file in new)
    return Rewritten(files_before=len(old), files_after=len(new), dropped_rows=dropped)


def _load(request: RewriteRequest) -> Table:
    return request.lake.catalog().load_table((request.namespace, request.table))
