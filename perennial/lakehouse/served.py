"""Which version served at a moment, trained on which rows, promoted on what evidence: one question with one answer."""

import json
from datetime import datetime
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel

from perennial.lakehouse.decisions import Decision, read_decisions
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import ModelVersion, read_version
from perennial.lakehouse.stages import Stage, read_stages

Clock = Literal["as_of", "recorded_at"]
"""`as_of`: the moment whose knowledge a step rests on, which replays and backtests go by; `recorded_at`: the clock on
the wall when its row was committed. In daily work they are minutes apart."""


class Served(BaseModel, frozen=True):
    """Who served, and why.

    Args:
        stage: the row that made it champion.
        version: its row: snapshots, row counts and hashes, code, seed, metrics.
        promotion: the decision it was promoted by; None where it was rolled out without one.
        rollout: how its roll-out ended; None while it is under way.
    """

    stage: Stage
    version: ModelVersion
    promotion: Decision | None
    rollout: Decision | None

    def evidence(self) -> dict[str, Any]:
        """The figures of the promotion; empty without one."""
        found: dict[str, Any] = json.loads(self.promotion.evidence) if self.promotion else {}
        return found


def served_at(lake: Lake, pipeline: str, moment: datetime, clock: Clock = "as_of") -> Served | None:
    """The version that was champion at a moment, with its training and its evidence; None: nobody served.

    Nothing that is recorded later changes the answer for a moment that has passed on that clock.
    """
    steps = [s for s in read_stages(lake, pipeline) if s.stage == "champion" and getattr(s, clock) <= moment]
    if not steps:
        return None
    stage = max(steps, key=lambda step: step.generation)
    rows = read_decisions(lake, pipeline)
    ours = rows.filter(pl.col("version") == stage.version, pl.col("recorded_at") <= stage.recorded_at)
    return Served(
        stage=stage,
        version=read_version(lake, pipeline, stage.version),
        promotion=_last(ours.filter(kind="promotion", verdict="promote")),
        rollout=_last(rows.filter(kind="rollout", decision_id=stage.decision_id)),
    )


def _last(rows: pl.DataFrame) -> Decision | None:
    if rows.is_empty():
        return None
    row = rows.row(-1, named=True)
    return Decision.model_validate({name: row[name] for name in Decision.model_fields})
