"""Rows that broke the contract, kept with every check they failed, and what `repair` has brought back of them.

Two tables cannot be committed together, so the `raw` commit names the staged quarantine files: its outbox. Appending
them is idempotent by batch id, and whoever comes next finishes it first.

No row leaves the table when it is repaired. A repaired row stands in `raw` under the batch and the position it has
here, so what is *open* follows from the two tables, and one commit to `raw` repairs: there is no moment at which a row
is in both halves, or in neither.
"""

import hashlib
from collections.abc import Callable

import polars as pl
from pydantic import BaseModel
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import And, BooleanExpression, EqualTo, NotNull
from pyiceberg.table import Table

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import QUARANTINE, REPAIRED_AT, ensure_raw, raw_table
from perennial.lakehouse.staging import staged_files
from perennial.lakehouse.tables import current_snapshot_id, ensure_table, plan_files, read_snapshot
from perennial.rules.features import contract_hash, repair_hash
from perennial.spec.pipeline import Pipeline
from perennial.spec.sources import Source

OUTBOX = "perennial.outbox"
"""Property of a raw table: `<batch id> <uri of a staged manifest> ...` of its last commit."""

FINISHED = "perennial.finished."
"""Property of the quarantine table, by source: the last batch whose outbox was appended."""

LAST_REPAIR = "perennial.repair"
"""Property of a raw table: its last repair. It is set with the rows, and the next repair is planned on it."""

WHERE = ("batch_id", "position")
"""What tells a quarantined row from every other of its source."""


class Repair(BaseModel, frozen=True):
    """The open rows that one repair looks at. The same choice after the same repair is the same repair.

    Args:
        batch: only rows of this batch; empty: of all.
        check: only rows that failed a check whose name begins so; empty: whatever they failed.
        previous: the repair that this one follows.
        files: the data files of the quarantine table that it looks at, among them rows of other sources and batches. They
            outlive the snapshot, which newer commits let go.
    """

    pipeline: str
    source: str
    batch: str
    check: str
    repair_id: str
    previous: str
    files: list[str]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to look at."""
        return not self.files


class RepairMoved(RuntimeError):
    """Another run repaired rows of this source meanwhile. Nothing of this repair was committed; plan again."""


def finish_quarantine(lake: Lake, pipeline: str, source: str) -> bool:
    """Append what the last raw commit of a source left in its outbox; whether there was anything left to do."""
    # Looked at before the outbox is: whoever finishes a batch from here on is noticed in the commit, however late.
    finished = _last_finished(lake, pipeline, source)
    try:
        raw = lake.catalog().load_table(raw_table(lake, pipeline, source))
    except NoSuchTableError:
        return False
    batch, *manifests = raw.properties.get(OUTBOX, "").split(" ")
    if not manifests or finished == batch:
        return False
    quarantine = ensure_table(lake, lake.table(pipeline, "quarantine"), QUARANTINE)

    def nobody_finished_it(table: Table) -> None:
        if table.properties.get(FINISHED + source, "") != finished:
            raise _FinishedMeanwhile

    try:
        committed = append_once(
            lake,
            lake.table(pipeline, "quarantine"),
            staged_files(quarantine, manifests),
            f"{source}/{batch}",
            properties={FINISHED + source: batch},
            expect=nobody_finished_it,
        )
    except _FinishedMeanwhile:
        return False
    return not committed.already


def read_open_quarantine(lake: Lake, pipeline: str, source: str) -> pl.DataFrame:
    """The quarantined rows of a source that were not repaired: with `raw`, every row that ever arrived, once.

    Right once the outbox is finished; until then the rows in it are in neither.
    """
    identifier = lake.table(pipeline, "quarantine")
    if current_snapshot_id(lake, identifier) is None:
        return pl.DataFrame(pl.from_arrow(QUARANTINE.empty_table()))
    kept = read_snapshot(lake, identifier, row_filter=EqualTo("source", source))
    raw = lake.catalog().load_table(raw_table(lake, pipeline, source))
    return open_rows(pl.DataFrame(pl.from_arrow(kept)), _repaired(raw))


def plan_repair(lake: Lake, pipeline: Pipeline, source: Source, batch: str, check: str) -> Repair:
    """What there is to repair now."""
    raw = ensure_raw(lake, pipeline.name, source)
    previous = raw.properties.get(LAST_REPAIR, "")
    identifier = lake.table(pipeline.name, "quarantine")
    wanted: BooleanExpression = EqualTo("source", source.name)
    if batch:
        wanted = And(wanted, EqualTo("batch_id", batch))
    snapshot = current_snapshot_id(lake, identifier)
    found = [] if snapshot is None else plan_files(lake, identifier, snapshot, wanted)
    files = sorted(task.file.file_path for task in found)
    words = [previous, source.name, batch, check, contract_hash(source), repair_hash(source), *files]
    return Repair(
        pipeline=pipeline.name,
        source=source.name,
        batch=batch,
        check=check,
        repair_id=f"repair-{hashlib.sha256(chr(10).join(words).encode()).hexdigest()[:16]}",
        previous=previous,
        files=files,
    )


def repaired_before(lake: Lake, repair: Repair) -> pl.DataFrame:
    """Where the rows stood that earlier repairs brought back, as far as this one may meet them.

    One that is committed while this one is at work may be among them: then this one is not committed.
    """
    raw = lake.catalog().load_table(raw_table(lake, repair.pipeline, repair.source))
    return _repaired(raw, repair.batch)


def open_rows(rows: pl.DataFrame, repaired: pl.DataFrame) -> pl.DataFrame:
    """The rows of quarantine that are not among the repaired."""
    return rows.join(repaired, on=WHERE, how="anti", maintain_order="left")


def expect_repair(repair: Repair, compared_with: int | None = None) -> Callable[[Table], None]:
    """The committer's check: nobody repaired rows of the source since this repair was planned.

    Args:
        compared_with: the snapshot that the rows' keys were compared with, where none of them may stand there already.
    """

    def check(table: Table) -> None:
        current = table.current_snapshot()
        changed = compared_with is not None and (current is None or current.snapshot_id != compared_with)
        if changed or table.properties.get(LAST_REPAIR, "") != repair.previous:
            raise RepairMoved(
                f"{repair.repair_id} of {repair.pipeline}/{repair.source}: another run committed rows of this source since "
                "it was planned. Nothing of it was committed; running repair again brings back what is still open."
            )

    return check


def _repaired(raw: Table, batch: str = "") -> pl.DataFrame:
    if LAST_REPAIR not in raw.properties:
        return pl.DataFrame(schema=dict.fromkeys(WHERE, pl.String))
    wanted: BooleanExpression = NotNull(REPAIRED_AT.name)
    if batch:
        wanted = And(wanted, EqualTo("_batch_id", batch))
    found = raw.scan(wanted, selected_fields=("_batch_id", "_position")).to_arrow()
    return pl.DataFrame(pl.from_arrow(found)).select(batch_id="_batch_id", position="_position")


def _last_finished(lake: Lake, pipeline: str, source: str) -> str:
    try:
        table = lake.catalog().load_table(lake.table(pipeline, "quarantine"))
    except NoSuchTableError:
        return ""
    return str(table.properties.get(FINISHED + source, ""))


class _FinishedMeanwhile(Exception):
    pass
