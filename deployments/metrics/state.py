"""What the metrics are made from, read from the tables every few seconds."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import GreaterThan

from flows.settings import Settings
from perennial.lakehouse.batches import batches_table
from perennial.lakehouse.decisions import read_decisions
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import read_versions
from perennial.lakehouse.stages import champion_stage
from perennial.lakehouse.tables import read_snapshot
from perennial.spec import list_pipelines

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
BATCH_COLUMNS = ["source", "verdict", "rows", "quarantined_rows", "committed_at", "newest_event_at"]
FIRST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Traffic:
    """Rows that the endpoint answered since this process began to look, by (version, role); sums of one process only."""

    seen_until: datetime = FIRST
    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    buckets: Counter[float] = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass
class PipelineState:
    """One pipeline as its tables have it."""

    name: str
    batches: pl.DataFrame
    decisions: pl.DataFrame
    versions: int
    champion: int | None
    traffic: Traffic

    @property
    def last_window(self) -> dict[str, Any] | None:
        """The evidence of the window that was judged last, with `verdict`, `version` and `window_end`."""
        judged = self.decisions.filter(kind="monitor").drop_nulls("window_end")
        if judged.is_empty():
            return None
        row = judged.sort("window_end", "recorded_at").row(-1, named=True)
        return json.loads(row["evidence"]) | {name: row[name] for name in ("verdict", "version", "window_end")}


class Reader:
    """Reads every pipeline's state; of the prediction log only what came since the last look."""

    def __init__(self, settings: Settings) -> None:
        self.lake, self.folder = settings.lake, settings.pipelines_dir
        self._traffic: dict[str, Traffic] = {}

    def read(self) -> list[PipelineState]:
        """The state of every pipeline that has a file."""
        decisions = read_decisions(self.lake)
        return [self._pipeline(name, decisions.filter(pipeline=name)) for name in list_pipelines(self.folder)]

    def _pipeline(self, name: str, decisions: pl.DataFrame) -> PipelineState:
        serving = champion_stage(self.lake, name)
        traffic = self._traffic.setdefault(name, Traffic())
        count_traffic(self.lake, name, traffic)
        return PipelineState(
            name=name,
            batches=_batches(self.lake, name),
            decisions=decisions,
            versions=len(read_versions(self.lake, name)),
            champion=serving.version if serving else None,
            traffic=traffic,
        )


def count_traffic(lake: Lake, pipeline: str, traffic: Traffic) -> None:
    """Add the answers of the prediction log that came after the last look; compaction moves rows, not their time."""
    columns = ["version", "role", "latency_ms", "answered_at", "score"]
    later = GreaterThan("answered_at", traffic.seen_until.isoformat())
    try:
        found = pl.from_arrow(
            read_snapshot(lake, lake.table(pipeline, "predictions"), columns=columns, row_filter=later)
        )
    except NoSuchTableError:
        return
    rows = pl.DataFrame(found).filter(pl.col("role") != "batch")
    if rows.is_empty():
        return
    counts = rows.group_by("version", "role").agg(pl.len(), failed=pl.col("score").null_count())
    for version, role, count, failed in counts.iter_rows():
        traffic.answered[str(version), role] += count
        traffic.failed[str(version), role] += failed
    seconds = rows.filter(role="champion")["latency_ms"].drop_nulls() / 1000
    for bucket in LATENCY_BUCKETS:
        traffic.buckets[bucket] += int((seconds <= bucket).sum())
    traffic.buckets[float("inf")] += len(seconds)
    traffic.seconds += float(seconds.sum())
    newest = rows["answered_at"].max()
    assert isinstance(newest, datetime)
    traffic.seen_until = newest


def _batches(lake: Lake, pipeline: str) -> pl.DataFrame:
    try:
        return pl.DataFrame(pl.from_arrow(read_snapshot(lake, batches_table(lake, pipeline), columns=BATCH_COLUMNS)))
    except NoSuchTableError:
        return pl.DataFrame(schema=dict.fromkeys(BATCH_COLUMNS, pl.String))
