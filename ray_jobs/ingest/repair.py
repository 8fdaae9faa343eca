"""Judge quarantined rows again, as they arrived, and write those that pass now to S3, where no table refers to them yet."""

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import ray
from pydantic import BaseModel

from perennial.faults import fault_point
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.personal import open_pseudonyms
from perennial.lakehouse.quarantine import Repair, open_rows, repaired_before
from perennial.lakehouse.raw import QUARANTINE, REPAIRED_AT, raw_table, read_references
from perennial.lakehouse.staging import StagedRows
from perennial.lakehouse.tables import current_snapshot_id
from perennial.rules.arrival import fit_kept, without_values
from perennial.rules.batch import BatchCounts, FailedCheck
from perennial.rules.compiled import ContractMistake
from perennial.rules.contract import ColumnsMissing, check_block, derive
from perennial.rules.features import contract_hash, known_at
from perennial.rules.raw_rows import decode_rows
from perennial.rules.unique import Around
from perennial.spec.load import load_pipeline
from perennial.spec.sources import Source
from ray_jobs.ingest.repeated import find_repeated, stage_fingerprints

_QUOTED = re.compile(r'"([^"]+)"')


class RepairRequest(BaseModel, frozen=True):
    """What to repair. `as_of`: the moment by whose knowledge rows refer to other sources' rows; `committed_at`: the clock,
    read by the flow."""

    lake: Lake
    repair: Repair
    as_of: datetime
    committed_at: datetime
    pipelines: Path


class StagedRepair(BaseModel, frozen=True):
    """The rows that pass now, as manifests of data files that no table refers to, and what the others still fail.

    `compared_with`: the snapshot of `raw` in which no key of the rows stands; None where it may.
    """

    repair: Repair
    counts: BatchCounts
    rows: list[str]
    compared_with: int | None = None

    @property
    def repaired_rows(self) -> int:
        """Rows that its commit brings back."""
        return self.counts.rows - self.counts.quarantined_rows


@dataclass(frozen=True)
class RepairedRows:
    """Rows that pass now, the counts of all, and fingerprints of what must be unique."""

    good: pl.DataFrame
    counts: BatchCounts
    prints: pl.DataFrame | None = None


class RepairMistake(ValueError):
    """A pipeline's repair function failed, or did not return the rows it was given. Nothing was published."""


def stage_repair(request: RepairRequest) -> StagedRepair:
    """Stage a repair. Memory is bounded by a quarantine file and a data file per slot, and by where earlier repairs'
    rows stood.

    Where values that must be unique stand in another row too, the rows are judged once more, told of them.
    """
    repair, lake = request.repair, request.lake
    if repair.is_empty:
        return StagedRepair(repair=repair, counts=BatchCounts(rows=0, quarantined_rows=0), rows=[])
    pipeline = load_pipeline(repair.pipeline, request.pipelines)
    source = pipeline.source(repair.source)
    around = Around(read_references(lake, pipeline, repair.source, request.as_of), secrets.randbits(63))
    work = StageRepair(request, repaired_before(lake, repair), around)
    reports = _stage_once(work)
    prints = [report["prints"] for report in reports if report["prints"]]
    snapshot = current_snapshot_id(lake, raw_table(lake, repair.pipeline, repair.source))
    rows = _total(reports).rows
    repeated = find_repeated(lake, request.pipelines, repair, source, prints, rows, snapshot, around.seed)
    if repeated:
        reports = _stage_once(StageRepair(request, work.repaired, replace(around, repeated=repeated)))
    fault_point("files-written")
    return StagedRepair(
        repair=repair,
        counts=_total(reports),
        rows=[report["rows"] for report in reports if report["rows"]],
        compared_with=snapshot if source.same_key == "violation" else None,
    )


def _stage_once(work: "StageRepair") -> list[dict[str, str]]:
    slots = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]  # Ray has no types here
    paths = [{"path": path} for path in work.request.repair.files]
    blocks = ray.data.from_items(paths, override_num_blocks=min(len(paths), slots))
    return list(blocks.map_batches(work, batch_format="pyarrow", batch_size=None, num_cpus=0.5).take_all())


def _total(reports: list[dict[str, str]]) -> BatchCounts:
    return BatchCounts.total(BatchCounts.model_validate_json(report["counts"]) for report in reports)


class StageRepair:
    """Repairs the rows of one block's quarantine files; yields a row that tells what was written."""

    def __init__(self, request: RepairRequest, repaired: pl.DataFrame, around: Around) -> None:
        self.request, self.repaired, self.around = request, repaired, around

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """See the class."""
        request = self.request
        source = load_pipeline(request.repair.pipeline, request.pipelines).source(request.repair.source)
        pseudonyms = open_pseudonyms(request.lake, request.repair.pipeline) if source.personal else None
        around = replace(self.around, pseudonyms=pseudonyms)
        lake, repair = request.lake, request.repair
        table = raw_table(lake, repair.pipeline, source.name)
        rows, counts, prints = StagedRows(lake, table, repair.repair_id), [], []
        for quarantined in self._read(block["path"].to_pylist()):
            for part in quarantined.partition_by("batch_id", "arrived_schema", maintain_order=True):
                repaired = repair_rows(source, part, request.committed_at, around)
                rows.add(repaired.good)
                counts.append(repaired.counts)
                if repaired.prints is not None and not self.around.repeated:
                    prints.append(repaired.prints)
        report = {
            "prints": stage_fingerprints(lake, repair.repair_id, pl.concat(prints)) if prints else "",
            "counts": BatchCounts.total(counts).model_dump_json(),
            "rows": rows.stage(),
        }
        yield pa.Table.from_pylist([report])

    def _read(self, paths: list[str]) -> Iterator[pl.DataFrame]:
        """The rows of each file that the repair is of and that are open."""
        repair, columns = self.request.repair, pl.DataFrame(pl.from_arrow(QUARANTINE.empty_table()))
        wanted = ds.field("source") == repair.source
        if repair.batch:
            wanted &= ds.field("batch_id") == repair.batch
        failed = pl.col("failed_checks").list.eval(pl.element().str.starts_with(repair.check)).list.any()
        for path in paths:
            files = self.request.lake.arrow_files()
            arrow = pq.read_table(path.removeprefix("s3://"), filesystem=files, filters=wanted)
            # rows that an older version wrote lack columns
            rows = pl.concat([columns, pl.DataFrame(pl.from_arrow(arrow))], how="diagonal")
            yield open_rows(rows.filter(failed), self.repaired)


def repair_rows(source: Source, kept: pl.DataFrame, repaired_at: datetime, around: Around) -> RepairedRows:
    """The rows that pass now, as `raw` has them, and what was found in all.

    A row comes back as if it had passed when it arrived: known when its batch was, and before what arrived after it.

    Args:
        kept: rows of the quarantine table, of one batch, that arrived with the same fields.
        around: what they cannot tell by themselves; positions in it begin with the batch, as in what is returned.

    Raises:
        RepairMistake: see there.
    """
    first, pseudonyms = kept.row(0, named=True), around.pseudonyms
    batch = f"{first['batch_id']}/"
    around = replace(around, batch=first["batch_id"])
    arrived = decode_rows(kept["raw_row"], kept["arrived_schema"][0])
    if pseudonyms:
        arrived = pseudonyms.reveal(arrived)
    arrived = arrived.with_columns(_position=kept["position"], _failed_checks=kept["failed_checks"])
    try:
        mended = fit_kept(source, _mended(source, arrived).drop("_failed_checks", strict=False))
        checked = check_block(source, mended.with_columns(_position=pl.lit(batch) + pl.col("_position")), around)
        derived = derive(source, checked.good)
    except ContractMistake as mistake:
        if pseudonyms is None:
            raise
        raise without_values(source, mistake) from None
    except (ColumnsMissing, _FieldMissing) as missing:
        # such as a line that could not be read as a row: it is broken still, and no reason to stop for the others
        reason = "columns:missing" if isinstance(missing, ColumnsMissing) else f"repair:missing({missing})"
        failed = {reason: FailedCheck(severity="quarantine", rows=len(kept))}
        return RepairedRows(pl.DataFrame(), BatchCounts(rows=len(kept), quarantined_rows=len(kept), failed=failed))
    moment = pl.Datetime("us", "UTC")
    passed = pseudonyms.replace(derived, source.personal) if pseudonyms else derived
    good = known_at(source, passed, first["as_of"] or first["quarantined_at"]).with_columns(
        pl.col("_position").str.strip_prefix(batch),
        pl.lit(repaired_at).cast(moment).alias(REPAIRED_AT.name),
        _source=pl.lit(source.name),
        _batch_id=pl.lit(first["batch_id"]),
        _committed_at=pl.lit(first["quarantined_at"]).cast(moment),
        _contract_version=pl.lit(contract_hash(source)),
    )
    return RepairedRows(good, checked.counts, checked.prints)


class _FieldMissing(LookupError):
    """The rows arrived without a field that the repair function reads."""


def _mended(source: Source, arrived: pl.DataFrame) -> pl.DataFrame:
    if source.repair is None:
        return arrived
    name = f"repair function of source {source.name!r}"
    try:
        mended = source.repair(arrived)
    except pl.exceptions.ColumnNotFoundError as error:
        raise _FieldMissing(", ".join(_QUOTED.findall(str(error))[:1])) from error
    except Exception as error:
        if source.personal:  # what it says of a row may be the row
            raise RepairMistake(
                f"the {name} failed on {len(arrived):,} rows with {type(error).__name__}; what it said is not shown, because the "
                "source has personal columns. Nothing was published. Try it on rows that are made up, correct it in the "
                "pipeline's file and run repair again."
            ) from None
        raise RepairMistake(
            f"the {name} failed on {len(arrived):,} rows with the fields {arrived.columns}: {type(error).__name__}: {error}. "
            "Nothing was published. Correct it in the pipeline's file and run repair again."
        ) from error
    if not isinstance(mended, pl.DataFrame) or "_position" not in mended.columns:
        raise RepairMistake(f"the {name} must return a Polars DataFrame with `_position`. Nothing was published.")
    if not mended["_position"].sort().equals(arrived["_position"].sort()):
        raise RepairMistake(
            f"the {name} was given {len(arrived):,} rows and returned {len(mended):,}, or others; it must return each with "
            "its `_position`. Nothing was published. Correct it in the pipeline's file and run repair again."
        )
    return mended
