"""Build a pipeline's features as of a moment: every row as it could be predicted for, with the label as known then.

coverage ─► parts of event time ─┬─ fresh ──► left alone
                                 ├─ built before ──► what is new since ─► new rows, and files with changed rows (Ray)
                                 └─ missing or stale ──► blocks built anew (Ray)          ─► one commit, with coverage
"""

import hashlib
import logging
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
from pydantic import BaseModel, Field
from pyiceberg.table import Table

from perennial.lakehouse.commit import Committed, rewrite_once
from perennial.lakehouse.condemned import FilesGone
from perennial.lakehouse.history import find_batch
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import raw_table
from perennial.lakehouse.staging import staged_files
from perennial.lakehouse.stretch import Stretch, current_sequence
from perennial.lakehouse.tables import current_snapshot_id, ensure_table, snapshot_summary
from perennial.rules.features import compute_features, feature_hashes, label_type, label_weights, pipeline_code_hash
from perennial.spec.load import contract_columns, load_pipeline
from perennial.spec.pipeline import Pipeline
from ray_jobs.features.blocks import BLOCK_ROWS, LABEL_KNOWN_AT, Inputs
from ray_jobs.features.coverage import Covered, cut_by, read_coverage, stale_features, with_stretch, write_coverage
from ray_jobs.features.rebuild import Part, keep_others, rebuild_stretch
from ray_jobs.features.refresh import refresh_stretch

KNOWN = pl.Datetime("us", "UTC")
PLANS = 5  # how often others may be faster before this one leaves the field to them
ROWS, LABELLED = "perennial.rows", "perennial.labelled-rows"
REBUILT, STALE = "perennial.rebuilt-rows", "perennial.stale-features"
logger = logging.getLogger(__name__)


class BuildRequest(BaseModel, frozen=True):
    """Which features, as of when. Rows and labels that became known later are not looked at.

    Args:
        start, end: build only the rows with event times in [start, end); None: all.
    """

    lake: Lake
    pipeline: str
    as_of: datetime
    pipelines: Path
    start: datetime | None = None
    end: datetime | None = None
    block_rows: int = Field(BLOCK_ROWS, ge=1)


class BuiltFeatures(BaseModel, frozen=True):
    """A snapshot of the features table and what it was built from.

    Args:
        rebuilt_rows: rows that came, changed or went with this build; all of them where it was not incremental.
        stale: features whose code is another than the table was built with until now.
    """

    snapshot_id: int
    rows: int
    labelled_rows: int
    inputs: dict[str, int]
    already: bool
    rebuilt_rows: int = 0
    stale: list[str] = []


class NothingToBuild(LookupError):
    """The entity's raw table has no row that was known by the moment."""


class BuiltMeanwhile(RuntimeError):
    """Another build changed the same stretch of the features table. Nothing was published; run again."""


def build(request: BuildRequest) -> BuiltFeatures:
    """Bring the features to what was known by `request.as_of`, once: a rerun finds its own snapshot.

    Raises:
        NothingToBuild: there is no row yet; the message names the flow that brings some.
        BuiltMeanwhile: others changed the same stretch each time. Nothing was published.
    """
    for plan in range(1, PLANS + 1):
        try:
            return _build(request)
        except (BuiltMeanwhile, FilesGone):
            if plan == PLANS:
                raise
            logger.info("features of %s: others changed files of the same stretch; planning again", request.pipeline)
    raise AssertionError("the last plan returned or raised")


def _build(request: BuildRequest) -> BuiltFeatures:
    lake, pipeline = request.lake, load_pipeline(request.pipeline, request.pipelines)
    wanted = Stretch(request.start, request.end)
    inputs = _pin(request, pipeline)
    table = ensure_table(lake, lake.table(pipeline.name, "features"), features_schema(pipeline))
    key = _key(request, pipeline, inputs)
    done = find_batch(table, key)
    if done is not None:
        return _told(table, done, pipeline, inputs.snapshots, already=True)
    today, covered = _today(request, pipeline, inputs), read_coverage(table)
    parts = cut_by(covered, wanted)
    current = table.current_snapshot()
    if current and wanted != Stretch() and all(before and before.says_the_same_as(today) for _, before in parts):
        return _told(table, current.snapshot_id, pipeline, inputs.snapshots, already=True)
    part = Part()
    for stretch, before in parts:
        part = part.plus(_build_stretch(request, pipeline, inputs, table, key, stretch, before, today))
    part = keep_others(inputs, pipeline, table, key, part)
    if not _counts(table, pipeline.label.name, part)[ROWS]:
        raise NothingToBuild(
            f"pipeline {pipeline.name}: no row of {pipeline.entity_source.name!r} was known by {request.as_of.isoformat()}. "
            f"Nothing was written. Run ingest for it first, or choose a later as_of."
        )
    committed = _publish(request, pipeline, inputs, table, key, part, covered, today)
    table = lake.catalog().load_table(lake.table(pipeline.name, "features"))
    return _told(table, committed.snapshot_id, pipeline, inputs.snapshots, already=committed.already)


def _publish(
    request: BuildRequest,
    pipeline: Pipeline,
    inputs: Inputs,
    table: Table,
    key: str,
    part: Part,
    covered: list[Covered],
    today: Covered,
) -> Committed:
    """One commit: files out, files in, and what the table now says of itself; stopped where another build was faster."""
    wanted = Stretch(request.start, request.end)
    summary = {
        REBUILT: str(part.rebuilt_rows),
        STALE: " ".join(sorted({name for item in covered for name in stale_features(item, today.features)})),
        "perennial.interval": "/".join(moment.isoformat() if moment else "" for moment in (request.start, request.end)),
        "perennial.code": today.code,
        **{f"perennial.input.{source}": str(snapshot) for source, snapshot in inputs.snapshots.items()},
    }
    if wanted == Stretch():  # only a build of the whole table is one that training may pick by its moment
        summary["perennial.as-of"] = request.as_of.isoformat()

    def unchanged(now: Table) -> None:
        if cut_by(read_coverage(now), wanted) != cut_by(covered, wanted):
            raise BuiltMeanwhile(
                f"another build of {pipeline.name} changed the same stretch of its features meanwhile. Nothing of this one "
                "was published. Run it again."
            )

    def told(now: Table) -> tuple[dict[str, str], dict[str, str]]:
        counts = {name: str(count) for name, count in _counts(now, pipeline.label.name, part).items()}
        return counts, write_coverage(with_stretch(read_coverage(now), today))

    new = staged_files(table, part.manifests)
    identifier = request.lake.table(pipeline.name, "features")
    return rewrite_once(request.lake, identifier, part.old, new, key, summary=summary, told=told, expect=unchanged)


def features_schema(pipeline: Pipeline) -> pa.Schema:
    """Key, event time, `_known_at`, the model's inputs, the label (null until known) and `_label_known_at`."""
    columns = contract_columns(pipeline.entity_source)
    empty = pl.DataFrame(schema={**columns, "_known_at": KNOWN})
    logs = {
        name: pl.DataFrame(schema={**contract_columns(pipeline.source(name)), "_known_at": KNOWN})
        for name in pipeline.looked_up
    }
    computed = compute_features(pipeline, empty, logs)
    return (
        computed.with_columns(
            pl.lit(None, label_type(pipeline)).alias(pipeline.label.name),
            pl.lit(None, KNOWN).alias(LABEL_KNOWN_AT),
            *(pl.lit(None, pl.Float64).alias(name) for name in label_weights(pipeline)),
        )
        .to_arrow()
        .schema
    )


def _build_stretch(
    request: BuildRequest,
    pipeline: Pipeline,
    inputs: Inputs,
    table: Table,
    key: str,
    stretch: Stretch,
    before: Covered | None,
    today: Covered,
) -> Part:
    if before is not None and before.says_the_same_as(today):
        return Part()
    if before is not None and before.can_go_on_to(today):
        part = refresh_stretch(inputs, pipeline, request.pipelines, table, key, stretch, before, request.block_rows)
        if part is not None:
            return part
        logger.info("most rows of %s are touched by what is new: all are built anew", pipeline.name)
    return rebuild_stretch(inputs, pipeline, request.pipelines, table, key, stretch, request.block_rows)


def _pin(request: BuildRequest, pipeline: Pipeline) -> Inputs:
    snapshots = {
        source.name: current_snapshot_id(request.lake, raw_table(request.lake, pipeline.name, source.name)) or 0
        for source in pipeline.sources
    }
    return Inputs(lake=request.lake, as_of=request.as_of, snapshots=snapshots)


def _today(request: BuildRequest, pipeline: Pipeline, inputs: Inputs) -> Covered:
    """What will be true of the stretch once it is built."""
    return Covered(
        start=request.start,
        end=request.end,
        as_of=request.as_of,
        sequences={
            name: current_sequence(request.lake, raw_table(request.lake, pipeline.name, name), snapshot)
            for name, snapshot in inputs.snapshots.items()
        },
        code=pipeline_code_hash(pipeline),
        features=feature_hashes(pipeline),
    )


def _key(request: BuildRequest, pipeline: Pipeline, inputs: Inputs) -> str:
    words = [request.as_of.isoformat(), pipeline_code_hash(pipeline)]
    words += [f"{k}={v}" for k, v in sorted(inputs.snapshots.items())]
    if request.start or request.end:
        words.append(f"{request.start}/{request.end}")
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def _counts(table: Table, label: str, part: Part) -> dict[str, int]:
    """Rows, and those with a known label, of the features table once a part of it was changed."""
    files = [task.file for task in table.scan().plan_files()]
    number = table.schema().find_field(label).field_id
    rows = sum(file.record_count for file in files)
    labelled = rows - sum((file.null_value_counts or {}).get(number, 0) for file in files)
    return {ROWS: rows + part.rows, LABELLED: labelled + part.labelled_rows}


def _told(
    table: Table, snapshot_id: int, pipeline: Pipeline, inputs: dict[str, int], *, already: bool
) -> BuiltFeatures:
    summary = {**_counts(table, pipeline.label.name, Part()), **snapshot_summary(table, snapshot_id)}
    return BuiltFeatures(
        snapshot_id=snapshot_id,
        rows=int(summary[ROWS]),
        labelled_rows=int(summary[LABELLED]),
        inputs=inputs,
        already=already,
        rebuilt_rows=int(summary.get(REBUILT, 0)),
        stale=str(summary.get(STALE, "")).split(),
    )
