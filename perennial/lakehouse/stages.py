"""What became of a version, row by row and never changed: challenger, shadow, canary, champion, archived, rejected.

Who serves is the champion row with the highest generation, and only one writer can take the next generation.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

import polars as pl
import pyarrow as pa
from pydantic import BaseModel, Field
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import And, EqualTo
from pyiceberg.table import Table

from perennial.lakehouse.commit import Expectation, append_once
from perennial.lakehouse.decisions import SYSTEM_PROPERTIES
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import ensure_table, read_snapshot

StageName = Literal["challenger", "shadow", "canary", "champion", "archived", "rejected"]
_INSTANT = pa.timestamp("us", "UTC")
_STAGES = pa.schema(
    [
        ("pipeline", pa.string()),
        ("version", pa.int64()),
        ("stage", pa.string()),
        ("generation", pa.int64()),
        ("as_of", _INSTANT),
        ("reason", pa.string()),
        ("decision_id", pa.string()),
        ("recorded_at", _INSTANT),
        ("share", pa.float64()),
    ]
)


class Stage(BaseModel, frozen=True):
    """One step of a version's life.

    Args:
        generation: how many times a pipeline's champion has been set, up to and with this row.
        decision_id: the decision it follows from; the same step for the same decision is recorded once.
        share: of a step of a roll-out, the part of the traffic that the version answers; None elsewhere.
    """

    pipeline: str
    version: int = Field(ge=1)
    stage: StageName
    generation: int = Field(ge=0)
    as_of: datetime
    reason: str
    decision_id: str
    recorded_at: datetime
    share: float | None = None


class StageConflict(RuntimeError):
    """Another run made a version champion since this one looked. Nothing was changed by this one."""


def record_stage(
    lake: Lake,
    pipeline: str,
    version: int,
    stage: StageName,
    *,
    as_of: datetime,
    reason: str,
    decision_id: str,
    share: float | None = None,
    expect: Callable[[list[Stage]], None] | None = None,
) -> Stage:
    """Record a step other than *champion*; the same step for the same decision is there once.

    Args:
        expect: looks at the pipeline's history that the commit builds on; raises to stop it.
    """
    if stage == "champion":
        raise ValueError("a champion takes a generation: use make_champion")
    history = read_stages(lake, pipeline)
    step = _step(pipeline, version, stage, _generation(history), as_of, reason, decision_id, share)

    def as_expected(table: Table) -> None:
        if expect:
            expect(_parse(table.scan(_of(pipeline)).to_arrow().to_pylist()))

    return _append(lake, [step], f"{pipeline}/{version}/{stage}/{share}/{decision_id}", as_expected)


def make_champion(
    lake: Lake,
    pipeline: str,
    version: int,
    *,
    expected_generation: int,
    as_of: datetime,
    reason: str,
    decision_id: str,
    expect: Callable[[list[Stage]], None] | None = None,
) -> Stage:
    """Make a version the one that serves, and archive the former, in one commit.

    Args:
        expected_generation: `champion_stage(...).generation` as the caller's checks found it, 0 where none served.
        expect: looks at the pipeline's history that the commit builds on; raises to stop it.

    Returns:
        The champion's row; the standing one if this very decision had been carried out before.

    Raises:
        StageConflict: another version became champion meanwhile.
    """
    done = _find(read_stages(lake, pipeline), version, "champion", decision_id, None)
    if done:
        return done
    former = champion_stage(lake, pipeline)

    def nobody_was_faster(table: Table) -> None:
        history = _parse(table.scan(_of(pipeline)).to_arrow().to_pylist())
        if expect:
            expect(history)
        now = _generation(history)
        if now != expected_generation:
            raise StageConflict(
                f"version {version} of {pipeline} was to follow champion generation {expected_generation}, but the "
                f"champion is of generation {now} by now. Nothing was changed. Compare with the champion there is, "
                "then decide again."
            )

    steps = [_step(pipeline, version, "champion", expected_generation + 1, as_of, reason, decision_id)]
    if former and former.version != version:
        why = f"version {version} took over: {reason}"
        steps.append(_step(pipeline, former.version, "archived", expected_generation + 1, as_of, why, decision_id))
    return _append(lake, steps, f"{pipeline}/{version}/champion/{decision_id}", nobody_was_faster)


def read_stages(lake: Lake, pipeline: str) -> list[Stage]:
    """A pipeline's whole history, oldest first."""
    return _parse(_rows(lake, pipeline))


def stage_history(lake: Lake, pipeline: str) -> pl.DataFrame:
    """The history as a table, for people and pictures."""
    rows = pa.Table.from_pylist([step.model_dump() for step in read_stages(lake, pipeline)], _STAGES)
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    return frame


def champion_stage(lake: Lake, pipeline: str, as_of: datetime | None = None) -> Stage | None:
    """The row that says who serves: now, or at a past moment. None: nobody does."""
    steps = [s for s in read_stages(lake, pipeline) if s.stage == "champion" and (as_of is None or s.as_of <= as_of)]
    return max(steps, key=lambda step: step.generation, default=None)


def latest_stage(lake: Lake, pipeline: str, version: int) -> Stage | None:
    """Where a version stands."""
    steps = [step for step in read_stages(lake, pipeline) if step.version == version]
    return steps[-1] if steps else None


def _append(lake: Lake, steps: list[Stage], key: str, expect: Expectation | None) -> Stage:
    ensure_table(lake, lake.system("stages"), _STAGES, SYSTEM_PROPERTIES)
    first = steps[0]
    standing = _find(read_stages(lake, first.pipeline), *_identity(first))
    if standing:
        return standing
    rows = pa.Table.from_pylist([step.model_dump() for step in steps], _STAGES)

    def not_there_yet(table: Table) -> None:
        if expect:
            expect(table)
        same = And(_of(first.pipeline), EqualTo("decision_id", first.decision_id))
        if _find(_parse(table.scan(same).to_arrow().to_pylist()), *_identity(first)):
            raise _AlreadyThere

    try:
        append_once(lake, lake.system("stages"), rows, key, expect=not_there_yet)
    except _AlreadyThere:
        pass  # recorded since this run looked, and so long ago that its batch id is forgotten: the row is what counts
    recorded = _find(read_stages(lake, first.pipeline), *_identity(first))
    assert recorded is not None
    return recorded


def _find(history: list[Stage], version: int, stage: str, decision_id: str, share: float | None) -> Stage | None:
    return next((step for step in history if _identity(step) == (version, stage, decision_id, share)), None)


def _identity(step: Stage) -> tuple[int, str, str, float | None]:
    return step.version, step.stage, step.decision_id, step.share


def _parse(rows: list[dict[str, Any]]) -> list[Stage]:
    return sorted((Stage.model_validate(row) for row in rows), key=lambda step: (step.recorded_at, step.generation))


def _step(
    pipeline: str,
    version: int,
    stage: StageName,
    generation: int,
    as_of: datetime,
    reason: str,
    decision_id: str,
    share: float | None = None,
) -> Stage:
    return Stage(
        pipeline=pipeline,
        version=version,
        stage=stage,
        generation=generation,
        as_of=as_of,
        reason=reason,
        decision_id=decision_id,
        recorded_at=datetime.now(UTC),
        share=share,
    )


def _generation(history: list[Stage]) -> int:
    return max((step.generation for step in history if step.stage == "champion"), default=0)


def _rows(lake: Lake, pipeline: str) -> list[dict[str, Any]]:
    try:
        rows = read_snapshot(lake, lake.system("stages"), row_filter=_of(pipeline))
    except NoSuchTableError:
        return []
    return list(rows.to_pylist())


def _of(pipeline: str) -> EqualTo:
    return EqualTo("pipeline", pipeline)


class _AlreadyThere(Exception):
    pass
