"""A pipeline's story from the rows of three tables: decisions, stages, versions. Nothing else is known here."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from perennial.lakehouse.registry import ModelVersion
from perennial.lakehouse.stages import Stage
from perennial.rules.evidence import Evidence

Row = dict[str, Any]
WINDOWS = 120
TELLING = ("promotion", "retrain", "rollout")  # kinds of decisions that are events; a claim is part of its retrain


@dataclass(frozen=True)
class Window:
    """One window that was judged: the decision's row and its evidence. `report`: where Evidently's page lies."""

    row: Row
    evidence: Evidence
    report: str | None
    anchor: str

    @property
    def drifted_share(self) -> float | None:
        """Share of the inputs that drifted on all rows; None where none was compared."""
        drift = self.evidence.drift
        return len(self.evidence.drifted_inputs) / len(drift) if drift else None


@dataclass(frozen=True)
class Event:
    """Something that was done or decided. `anchor`: of its row on the page; `of_window`: that is its window's."""

    at: datetime
    kind: str
    verdict: str
    version: int | None
    reason: str
    decision_id: str
    run_id: str
    anchor: str
    of_window: bool


@dataclass(frozen=True)
class Reign:
    """A stretch in which one version was champion. `end` None: it still is."""

    version: int
    generation: int
    start: datetime
    end: datetime | None
    reason: str
    decision_id: str


@dataclass(frozen=True)
class Story:
    """All of it, oldest first."""

    pipeline: str
    windows: list[Window]
    events: list[Event]
    reigns: list[Reign]
    versions: list[ModelVersion]
    stages: list[Stage]

    @property
    def inputs(self) -> list[str]:
        """Every input that was ever compared, those that drifted furthest over their bound first."""
        furthest: dict[str, float] = {}
        for window in self.windows:
            for name, size in window.evidence.drift.items():
                over = size / (window.evidence.drift_bounds.get(name) or 1.0)
                furthest[name] = max(furthest.get(name, 0.0), over)
        return sorted(furthest, key=lambda name: (-furthest[name], name))

    @property
    def serving(self) -> Reign | None:
        """Who serves now."""
        return self.reigns[-1] if self.reigns else None

    def why(self, reign: Reign) -> list[Event]:
        """What led to a reign, in order: the window's verdict that asked for a retrain, the promotion, the roll-out."""
        own = [e for e in self.events if e.version == reign.version and e.at <= reign.start]
        last = {event.kind: event for event in own}
        chain = [last["promotion"]] if "promotion" in last else []
        asked = last.get("retrain")
        if asked:
            chain = [e for e in self.events if e.kind == "monitor" and e.decision_id == asked.decision_id] + chain
        rolled = [e for e in self.events if e.kind == "rollout" and e.decision_id == reign.decision_id]
        return chain + rolled[-1:]


def read_story(
    pipeline: str,
    decisions: pl.DataFrame,
    stages: Sequence[Stage],
    versions: Sequence[ModelVersion],
    windows: int | None = WINDOWS,
) -> Story:
    """The story in rows of the tables, of one pipeline.

    Args:
        decisions: in the order in which they were recorded.
        windows: so many of the windows are told, the last ones; None: all.
    """
    rows = decisions.to_dicts()
    watched = [row for row in rows if row["kind"] == "monitor"]
    whole = [row for row in watched if row["version"] is not None and row["window_start"] is not None]
    told = sorted(whole, key=lambda r: (r["window_end"], r["recorded_at"]))[-windows if windows else 0 :]
    shown = {row["decision_id"] for row in told}
    done = [row for row in rows if row["kind"] in TELLING]
    alarms = [row for row in watched if row["verdict"] != "hold"]
    events = sorted((_event(row, shown) for row in [*alarms, *done]), key=lambda event: event.at)
    return Story(
        pipeline=pipeline,
        windows=[_window(row) for row in told],
        events=events,
        reigns=_reigns(stages),
        versions=list(versions),
        stages=list(stages),
    )


def _window(row: Row) -> Window:
    told = json.loads(row["evidence"])
    evidence = Evidence.model_validate({"version": row["version"], "rows": 0} | told)
    return Window(row, evidence, told.get("report"), f"b-{row['decision_id']}")


def _event(row: Row, shown: set[str]) -> Event:
    """`shown`: the windows that have a row on the page; an older one's verdict has only the row of the event."""
    of_window = row["kind"] == "monitor" and row["decision_id"] in shown
    return Event(
        at=row["as_of"],
        kind=row["kind"],
        verdict=row["verdict"],
        version=row["version"],
        reason=row["reason"],
        decision_id=row["decision_id"],
        run_id=row["run_id"],
        anchor=f"b-{row['decision_id']}" if of_window else f"e-{row['kind']}-{row['decision_id']}",
        of_window=of_window,
    )


def _reigns(stages: Sequence[Stage]) -> list[Reign]:
    crowned = sorted((s for s in stages if s.stage == "champion"), key=lambda step: step.generation)
    ends = [*(step.as_of for step in crowned[1:]), None][: len(crowned)]  # of none, none
    return [
        Reign(step.version, step.generation, step.as_of, end, step.reason, step.decision_id)
        for step, end in zip(crowned, ends, strict=True)
    ]
