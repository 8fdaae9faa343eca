"""What the metrics are made from, read from the tables every few seconds; of each table only what is new."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from pyiceberg.exceptions import NoSuchTableError

from flows.settings import Settings
from perennial.lakehouse.appended import last_commit, read_appended
from perennial.lakehouse.batches import batches_table
from perennial.lakehouse.decisions import find_decision
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import read_versions
from perennial.lakehouse.stages import champion_stage
from perennial.lakehouse.tables import Identifier, current_snapshot_id, read_snapshot
from perennial.spec import Pipeline, list_pipelines, load_pipeline
from perennial.spec.load import PipelineError

logger = logging.getLogger(__name__)
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
BATCH_COLUMNS = ("source", "verdict", "rows", "quarantined_rows", "committed_at", "newest_event_at")
DECISION_COLUMNS = ("decision_id", "pipeline", "kind", "verdict", "window_end", "recorded_at")
ANSWER_COLUMNS = ("version", "role", "latency_ms", "score")


@dataclass
class Traffic:
    """Rows that the endpoint answered, by (version, role), as far as the log brought them since this process began.

    `commit`: the log's commit up to which they are counted.
    """

    commit: int
    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    buckets: Counter[float] = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass
class PipelineState:
    """One pipeline as its file and its tables have it.

    Args:
        spec: None while the file has a mistake.
        decisions: all of them, without their evidence.
        last_window: the evidence of the window that was judged last, with `verdict`, `version` and `window_end`.
    """

    name: str
    spec: Pipeline | None
    batches: pl.DataFrame
    decisions: pl.DataFrame
    last_window: dict[str, Any] | None
    versions: int
    champion: int | None
    traffic: Traffic


class Reader:
    """Reads every pipeline's state; a table, a file and a part of the prediction log again only when it is new."""

    def __init__(self, settings: Settings) -> None:
        self.lake, self.folder = settings.lake, settings.pipelines_dir
        self._traffic: dict[str, Traffic] = {}
        self._tables: dict[Identifier, tuple[int | None, pl.DataFrame]] = {}
        self._windows: dict[str, tuple[str, dict[str, Any]]] = {}
        self._specs: dict[str, tuple[int, Pipeline | None]] = {}

    def read(self) -> list[PipelineState]:
        """The state of every pipeline that has a file."""
        decisions = self._table(self.lake.system("decisions"), DECISION_COLUMNS)
        return [self._pipeline(name, decisions.filter(pipeline=name)) for name in list_pipelines(self.folder)]

    def _pipeline(self, name: str, decisions: pl.DataFrame) -> PipelineState:
        serving = champion_stage(self.lake, name)
        if name not in self._traffic:
            self._traffic[name] = Traffic(_last_commit(self.lake, name))
        count_traffic(self.lake, name, self._traffic[name])
        return PipelineState(
            name=name,
            spec=self._spec(name),
            batches=self._table(batches_table(self.lake, name), BATCH_COLUMNS),
            decisions=decisions,
            last_window=self._last_window(name, decisions),
            versions=len(read_versions(self.lake, name)),
            champion=serving.version if serving else None,
            traffic=self._traffic[name],
        )

    def _table(self, identifier: Identifier, columns: Sequence[str]) -> pl.DataFrame:
        """These columns of a table's rows, read again once it has another snapshot; empty while there is none."""
        snapshot = current_snapshot_id(self.lake, identifier)
        if snapshot is None:
            return pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
        if self._tables.get(identifier, (None,))[0] != snapshot:
            rows = pl.DataFrame(pl.from_arrow(read_snapshot(self.lake, identifier, snapshot, columns)))
            self._tables[identifier] = (snapshot, rows)
        return self._tables[identifier][1]

    def _last_window(self, name: str, decisions: pl.DataFrame) -> dict[str, Any] | None:
        judged = decisions.filter(kind="monitor").drop_nulls("window_end")
        if judged.is_empty():
            return None
        last = judged.sort("window_end", "recorded_at")["decision_id"][-1]
        if self._windows.get(name, (None,))[0] != last:
            row = find_decision(self.lake, "monitor", last)
            assert row is not None, "rows of decisions stay"
            told = {"verdict": row.verdict, "version": row.version, "window_end": row.window_end}
            self._windows[name] = (last, json.loads(row.evidence) | told)
        return self._windows[name][1]

    def _spec(self, name: str) -> Pipeline | None:
        changed = (self.folder / f"{name}.py").stat().st_mtime_ns
        if self._specs.get(name, (None,))[0] != changed:
            try:
                spec = load_pipeline(name, self.folder)
            except PipelineError:  # the others' metrics must not go with it
                logger.exception("%s.py has a mistake: no metrics of what it declares until it is repaired", name)
                spec = None
            self._specs[name] = (changed, spec)
        return self._specs[name][1]


def count_traffic(lake: Lake, pipeline: str, traffic: Traffic) -> None:
    """Add the answers that the prediction log got since the last look, a data file at a time.

    By the log's commits, not by the moment of the answer: replicas ship their answers when they can.
    """
    try:
        commit, parts = read_appended(lake, lake.table(pipeline, "predictions"), ANSWER_COLUMNS, traffic.commit)
    except NoSuchTableError:
        return
    counted = Traffic(commit)
    for part in parts:
        _count(pl.DataFrame(pl.from_arrow(part)), counted)
    # all at once and last: a file that cannot be read now is counted at the next look, and the others not twice
    traffic.answered += counted.answered
    traffic.failed += counted.failed
    traffic.buckets += counted.buckets
    traffic.seconds += counted.seconds
    traffic.commit = commit


def _count(answers: pl.DataFrame, traffic: Traffic) -> None:
    rows = answers.filter(pl.col("role") != "batch")
    counts = rows.group_by("version", "role").agg(pl.len(), failed=pl.col("score").null_count())
    for version, role, count, failed in counts.iter_rows():
        traffic.answered[str(version), role] += count
        traffic.failed[str(version), role] += failed
    seconds = rows.filter(role="champion")["latency_ms"].drop_nulls() / 1000
    for bucket in LATENCY_BUCKETS:
        traffic.buckets[bucket] += int((seconds <= bucket).sum())
    traffic.buckets[float("inf")] += len(seconds)
    traffic.seconds += float(seconds.sum())


def _last_commit(lake: Lake, pipeline: str) -> int:
    try:
        return last_commit(lake, lake.table(pipeline, "predictions"))
    except NoSuchTableError:
        return 0
