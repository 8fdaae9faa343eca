"""Check one batch against its contract and write both halves to S3, where no table refers to them yet."""

import heapq
import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import ray
from pydantic import BaseModel

from perennial.faults import fault_point
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import Batch, Part, changed_parts, leave_out
from perennial.lakehouse.raw import QUARANTINE, raw_table, read_references
from perennial.lakehouse.staging import stage_rows
from perennial.lakehouse.tables import current_snapshot_id
from perennial.rules.batch import BatchCounts
from perennial.rules.features import contract_hash, known_at
from perennial.rules.schema import SchemaRefused
from perennial.rules.unique import Around
from perennial.spec.load import load_pipeline
from perennial.spec.sources import Source
from ray_jobs.ingest.chunks import PartsUnreadable
from ray_jobs.ingest.judge import StagedBlock, judge_parts
from ray_jobs.ingest.kept import quarantine_rows
from ray_jobs.ingest.read import split_parts
from ray_jobs.ingest.repeated import Repeated, find_repeated, stage_fingerprints

FILE_BYTES = 128 * 1024 * 1024  # of rows in memory, before a data file is closed


class StageRequest(BaseModel, frozen=True):
    """What to stage. `committed_at`: the clock, read by the flow. `refused`: the batch goes to quarantine, all of it."""

    lake: Lake
    batch: Batch
    run_id: str
    committed_at: datetime
    pipelines: Path
    refused: bool = False


class StagedBatch(BaseModel, frozen=True):
    """Both halves of a checked batch, as manifests of data files that no table refers to.

    Args:
        batch: what was staged: all that was planned but for parts that changed meanwhile or are unreadable.
        unreadable: parts left out because their content is not what it should be, with the reasons.
        refusal: why the whole batch is in its quarantine half; empty where it is not.
        compared_with: the snapshot of `raw` in which no key of the batch stands; None where it may.
    """

    batch: Batch
    counts: BatchCounts
    rows: list[str]
    quarantine: list[str]
    unreadable: dict[str, str] = {}
    refusal: str = ""
    compared_with: int | None = None

    @property
    def published_rows(self) -> int:
        """Rows that its commit makes readable."""
        return 0 if self.refusal else self.counts.rows - self.counts.quarantined_rows


def stage(request: StageRequest) -> StagedBatch:
    """Stage a batch. Memory is bounded by a block and a data file per slot, whatever the batch's size.

    Parts that changed while they were read, or that cannot be read at all, are left out, and the others are staged
    again: rows of theirs may be in the data files already. Parts left out stay new for the next run. Where rows share
    values that must be unique with rows of other blocks or of the table, the batch is staged again, told of them.
    """
    pipeline = load_pipeline(request.batch.pipeline, request.pipelines)
    source = pipeline.source(request.batch.source)
    # read once, so that all blocks are judged by the same keys
    known = read_references(request.lake, pipeline, source.name, request.batch.as_of)
    around = Around(known, secrets.randbits(64))
    reports: list[dict[str, str]] = []
    unreadable: dict[str, str] = {}
    snapshot = None
    while not request.batch.is_empty:
        reports = _stage_once(request, source, around)
        left_out = _left_out(request, source, reports)
        if not left_out:
            snapshot = current_snapshot_id(request.lake, raw_table(request.lake, pipeline.name, source.name))
            if repeated := _find_repeated(request, source, reports, snapshot, around.seed):
                reports = _stage_once(request, source, replace(around, repeated=repeated))
                left_out = _left_out(request, source, reports)
        if not left_out:
            break
        unreadable |= {part: reason for part, reason in left_out.items() if reason}
        request, reports = request.model_copy(update={"batch": leave_out(request.batch, left_out)}), []
    return StagedBatch(
        batch=request.batch,
        counts=_total(reports),
        rows=[report["rows"] for report in reports if report["rows"]],
        quarantine=[report["quarantine"] for report in reports if report["quarantine"]],
        unreadable=unreadable,
        compared_with=snapshot if source.same_key == "violation" else None,
    )


def _stage_once(request: StageRequest, source: Source, around: Around) -> list[dict[str, str]]:
    slots = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]  # Ray has no types here
    parts = split_parts(request.lake, source, request.batch.parts, slots)
    hands = deal_parts(parts, slots)
    blocks = ray.data.from_items([{"parts": hand} for hand in hands], override_num_blocks=len(hands))
    # One callable reads, parses, checks and writes: rows never cross the object store.
    written = blocks.map_batches(
        StageParts(request, parts, around), batch_format="pyarrow", batch_size=None, num_cpus=0.5
    )
    # What the blocks report rides along with them: asking the dataset again would run the plan again.
    reports = list(written.take_all())
    if refusals := [report["refused"] for report in reports if report["refused"]]:
        raise SchemaRefused("\n".join(dict.fromkeys(refusals)))
    fault_point("files-written")
    return reports


def _left_out(request: StageRequest, source: Source, reports: list[dict[str, str]]) -> dict[str, str]:
    """Parts whose rows must not be published, and what is wrong with each; nothing is, where it has only changed."""
    changed = dict.fromkeys(changed_parts(request.lake, source, request.batch), "")
    reasons: dict[str, str] = {}
    for report in reports:
        reasons |= json.loads(report["unreadable"])
    return reasons | changed


def _find_repeated(
    request: StageRequest, source: Source, reports: list[dict[str, str]], snapshot: int | None, seed: int
) -> Repeated:
    prints = [report["prints"] for report in reports if report["prints"]]
    rows = _total(reports).rows
    return find_repeated(request.lake, request.pipelines, request.batch, source, prints, rows, snapshot, seed)


def _total(reports: list[dict[str, str]]) -> BatchCounts:
    return BatchCounts.total(BatchCounts.model_validate_json(report["counts"]) for report in reports)


def deal_parts(parts: Sequence[Part], slots: int) -> list[list[int]]:
    """Indices of the parts that each of at most `slots` tasks reads: the heaviest first, each to the least loaded."""
    hands: list[list[int]] = [[] for _ in range(min(len(parts), slots))]
    loads = [(0, number) for number in range(len(hands))]
    for index in sorted(range(len(parts)), key=lambda index: -parts[index].weight):
        load, number = heapq.heappop(loads)
        hands[number].append(index)
        heapq.heappush(loads, (load + parts[index].weight, number))
    return [sorted(hand) for hand in hands]


class StageParts:
    """Stages the parts of one block and yields a row of what it wrote for every data file's worth of rows."""

    def __init__(self, request: StageRequest, parts: Sequence[Part], around: Around) -> None:
        self.request, self.parts, self.around = request, parts, around

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """See the class."""
        request, waiting = self.request, list[StagedBlock]()
        source = load_pipeline(request.batch.pipeline, request.pipelines).source(request.batch.source)
        for hand in block["parts"].to_pylist():
            parts = [self.parts[index] for index in hand]
            try:
                for checked in judge_parts(
                    request.lake, request.batch.pipeline, source, parts, self.around, request.refused
                ):
                    waiting.append(checked)
                    if sum(part.bytes for part in waiting) > FILE_BYTES:
                        yield self._write(waiting)
                        waiting = []
            except SchemaRefused as refusal:  # handed on as a row: Ray would make a traceback of it
                yield _report(refused=str(refusal))
                return
            except PartsUnreadable as error:
                yield _report(unreadable=json.dumps(error.reasons))
                return  # nothing that was read beside them can be used
        if waiting:
            yield self._write(waiting)

    def _write(self, parts: list[StagedBlock]) -> pa.Table:
        request, batch = self.request, self.request.batch
        source = load_pipeline(batch.pipeline, request.pipelines).source(batch.source)
        good = pl.concat([part.good for part in parts])
        version = contract_hash(source)
        rows = known_at(source, good, batch.as_of).with_columns(
            _source=pl.lit(source.name),
            _batch_id=pl.lit(batch.batch_id),
            _committed_at=pl.lit(request.committed_at).cast(pl.Datetime("us", "UTC")),
            _contract_version=pl.lit(version),
        )
        broken = quarantine_rows(
            pl.concat([part.kept for part in parts]),
            source=source.name,
            batch_id=batch.batch_id,
            run_id=request.run_id,
            contract_version=version,
            as_of=batch.as_of,
            at=request.committed_at,
        )
        lake, table = request.lake, raw_table(request.lake, batch.pipeline, source.name)
        quarantine = lake.table(batch.pipeline, "quarantine")
        published = stage_rows(lake, table, None, rows, batch.batch_id)
        fault_point("files-half-written")
        prints = [part.prints for part in parts if part.prints is not None and not self.around.repeated]
        return _report(
            prints=stage_fingerprints(request.lake, batch.batch_id, pl.concat(prints)) if prints else "",
            counts=BatchCounts.total(part.counts for part in parts).model_dump_json(),
            rows=published,
            quarantine=stage_rows(lake, quarantine, QUARANTINE, broken, batch.batch_id),
        )


def _report(**found: str) -> pa.Table:
    nothing = {"prints": "", "rows": "", "quarantine": "", "unreadable": "{}", "refused": ""}
    return pa.Table.from_pylist(
        [{**nothing, "counts": BatchCounts(rows=0, quarantined_rows=0).model_dump_json(), **found}]
    )
