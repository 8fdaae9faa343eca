"""Check one batch against its contract and write both halves to S3, where no table refers to them yet."""

import heapq
import json
import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import ray
from pydantic import BaseModel

from perennial.faults import fault_point
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import Batch, Part, changed_parts, cut_batch, know_contents, leave_out
from perennial.lakehouse.raw import raw_table, read_references
from perennial.lakehouse.tables import current_snapshot_id
from perennial.rules.batch import BatchCounts
from perennial.rules.schema import SchemaRefused
from perennial.rules.unique import Around
from perennial.spec.kafka import Kafka
from perennial.spec.load import load_pipeline
from perennial.spec.sources import Source
from ray_jobs.ingest.chunks import PartsUnreadable
from ray_jobs.ingest.halves import Halves, report
from ray_jobs.ingest.judge import judge_parts
from ray_jobs.ingest.kafka import Limit
from ray_jobs.ingest.read import part_digests, split_parts
from ray_jobs.ingest.repeated import Repeated, find_repeated, stage_fingerprints

PRINTS_BYTES = 64 << 20  # of fingerprints in memory, before they are brought to S3


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


@dataclass(frozen=True)
class Workers:
    """Where parts are read, judged and written: by `run`, in at most `slots` hands at once, each with indices of parts."""

    slots: int
    run: "Callable[[StageParts, list[list[int]]], list[dict[str, str]]]"


def ray_workers() -> Workers:
    """Tasks of Ray Data, one per CPU of the cluster."""

    def run(work: "StageParts", hands: list[list[int]]) -> list[dict[str, str]]:
        blocks = ray.data.from_items([{"parts": hand} for hand in hands], override_num_blocks=len(hands))
        # One callable reads, parses, checks and writes: rows never cross the object store.
        written = blocks.map_batches(work, batch_format="pyarrow", batch_size=None, num_cpus=0.5)
        # What the blocks report rides along with them: asking the dataset again would run the plan again.
        return list(written.take_all())

    return Workers(int(ray.cluster_resources().get("CPU", 1)), run)  # type: ignore[no-untyped-call]  # Ray has no types here


def stage(request: StageRequest, workers: Workers | None = None) -> StagedBatch:
    """Stage a batch, by default on Ray. Memory is bounded by a block and the rows of some row groups per slot, whatever the batch's size.

    Parts that changed while they were read, or that cannot be read at all, are left out, and the others are staged
    again: rows of theirs may be in the data files already. Parts left out stay new for the next run. Where rows share
    values that must be unique with rows of other blocks or of the table, the batch is staged again, told of them.
    """
    workers = workers or ray_workers()
    pipeline = load_pipeline(request.batch.pipeline, request.pipelines)
    source = pipeline.source(request.batch.source)
    # read once, so that all blocks are judged by the same keys
    known = read_references(request.lake, pipeline, source.name, request.batch.as_of)
    around = Around(known, secrets.randbits(64))
    reports: list[dict[str, str]] = []
    unreadable: dict[str, str] = {}
    snapshot = None
    limit = source.maximum_bytes if isinstance(source, Kafka) and not request.refused else None
    while not request.batch.is_empty:
        reports = _stage_once(request, source, around, workers, limit)
        cut, again = cut_batch(request.batch, _told(reports, "reached"))
        request, limit = request.model_copy(update={"batch": cut}), None
        if again:
            continue
        left_out = _left_out(request, source, reports)
        read = know_contents(request.lake, source, request.batch, _told(reports, "digests"))
        again = len(read.parts) < len(request.batch.parts)  # rows of files that were renamed are among those staged
        request = request.model_copy(update={"batch": read})
        if not left_out and not again:
            snapshot = current_snapshot_id(request.lake, raw_table(request.lake, pipeline.name, source.name))
            if repeated := _find_repeated(request, source, reports, snapshot, around.seed):
                reports = _stage_once(request, source, replace(around, repeated=repeated), workers)
                left_out = _left_out(request, source, reports)
        if not left_out and not again:
            break
        unreadable |= {part: reason for part, reason in left_out.items() if reason}
        request, reports = request.model_copy(update={"batch": leave_out(request.batch, left_out)}), []
    return StagedBatch(
        batch=request.batch,
        counts=_total(reports),
        rows=[told["rows"] for told in reports if told["rows"]],
        quarantine=[told["quarantine"] for told in reports if told["quarantine"]],
        unreadable=unreadable,
        compared_with=snapshot if source.same_key == "violation" else None,
    )


def _stage_once(
    request: StageRequest, source: Source, around: Around, workers: Workers, limit: int | None = None
) -> list[dict[str, str]]:
    parts = split_parts(request.lake, source, request.batch.parts, workers.slots)
    hands = deal_parts(parts, workers.slots)
    reports = workers.run(StageParts(request, parts, around, limit and max(1, limit // len(hands))), hands)
    if refusals := [told["refused"] for told in reports if told["refused"]]:
        raise SchemaRefused("\n".join(dict.fromkeys(refusals)))
    fault_point("files-written")
    return reports


def _told(reports: list[dict[str, str]], what: str) -> dict[str, Any]:
    """What all reports say of parts, by the parts' identities."""
    found: dict[str, Any] = {}
    for told in reports:
        found |= json.loads(told[what])
    return found


def _left_out(request: StageRequest, source: Source, reports: list[dict[str, str]]) -> dict[str, str]:
    """Parts whose rows must not be published, and what is wrong with each; nothing is, where it has only changed."""
    reasons: dict[str, str] = _told(reports, "unreadable")
    return reasons | dict.fromkeys(changed_parts(request.lake, source, request.batch, reasons), "")


def _find_repeated(
    request: StageRequest, source: Source, reports: list[dict[str, str]], snapshot: int | None, seed: int
) -> Repeated:
    prints = [told["prints"] for told in reports if told["prints"]]
    rows = _total(reports).rows
    return find_repeated(request.lake, request.pipelines, request.batch, source, prints, rows, snapshot, seed)


def _total(reports: list[dict[str, str]]) -> BatchCounts:
    return BatchCounts.total(BatchCounts.model_validate_json(told["counts"]) for told in reports)


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
    """Stages the parts of one block; yields rows that tell what was written.

    Args:
        limit: bytes of messages that one block may bring in; None: all there are.
    """

    def __init__(self, request: StageRequest, parts: Sequence[Part], around: Around, limit: int | None = None) -> None:
        self.request, self.parts, self.around, self.limit = request, parts, around, limit

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """See the class."""
        request, batch = self.request, self.request.batch
        source = load_pipeline(batch.pipeline, request.pipelines).source(batch.source)
        parts = [self.parts[index] for hand in block["parts"].to_pylist() for index in hand]
        out, limit = Halves(request, source), Limit(self.limit or math.inf)
        prints: list[pl.DataFrame] = []
        digests = part_digests(request.lake, source, parts)
        try:
            for judged in judge_parts(request.lake, batch.pipeline, source, parts, self.around, request.refused, limit):
                out.add(judged)
                if judged.prints is not None and not self.around.repeated:
                    prints.append(judged.prints)
                if sum(part.estimated_size() for part in prints) > PRINTS_BYTES:
                    yield report(prints=self._stage_prints(prints))
                    prints = []
        except SchemaRefused as refusal:  # handed on as a row: Ray would make a traceback of it
            yield report(refused=str(refusal))
            return
        except PartsUnreadable as error:
            yield report(unreadable=json.dumps(error.reasons))
            return  # nothing that was read beside them can be used
        yield out.stage(self._stage_prints(prints), reached=limit.reached, digests=digests)

    def _stage_prints(self, prints: list[pl.DataFrame]) -> str:
        if not prints:
            return ""
        return stage_fingerprints(self.request.lake, self.request.batch.batch_id, pl.concat(prints))
