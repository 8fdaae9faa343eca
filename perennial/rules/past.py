"""What a pipeline has been through, as the table of decisions tells it: the windows judged and the retrains they led to.

The policy reads nothing else, so the same rows give the same verdict in `monitor`, in a replay and in a test.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from perennial.rules.evidence import Evidence

BULKY = ("scores", "sample_drift", "sample_bounds", "skew", "unseen", "outside", "slices", "seasonal_drift")
"""What no later verdict looks at: a year of windows with hundreds of inputs travels without it."""
LATE = re.compile(r"-late(\d*)$")  # ends the ids of a window's further decisions, which late labels asked for
Ended = Literal["promoted", "rejected", "inconclusive", "failed", "running", "rolled_back"]


def late_ending(times: int) -> str:
    """What the id of a window's decision ends with that late labels have asked for so many times."""
    return f"-late{times if times > 1 else ''}" if times else ""


def asked_of(decision_id: str) -> str:
    """The window's decision, whether or not late labels reopened it."""
    return LATE.sub("", decision_id)


class PastWindow(BaseModel, frozen=True):
    """A window that was judged, with its evidence. `at`: the moment whose knowledge the verdict rests on."""

    decision_id: str
    start: datetime
    end: datetime
    at: datetime
    verdict: Literal["retrain", "hold", "page"]
    evidence: Evidence
    guard: str | None = None

    @property
    def asked(self) -> str:
        """The window's decision, whether or not late labels reopened it."""
        return asked_of(self.decision_id)

    @property
    def late(self) -> int:
        """How often late labels have reopened it."""
        found = LATE.search(self.decision_id)
        return int(found[1] or 1) if found else 0


class PastRetrain(BaseModel, frozen=True):
    """A retrain that a decision led to. `at`: the decision's moment; `version`: what it trained, where it came so far."""

    decision_id: str
    at: datetime
    ended: Ended
    version: int | None = None
    seconds: float | None = None

    @property
    def asked(self) -> str:
        """The window's decision, whether or not late labels reopened it."""
        return asked_of(self.decision_id)


class Past(BaseModel, frozen=True):
    """Everything the policy knows beside the window it judges; both in the order of their moments."""

    windows: list[PastWindow] = []
    retrains: list[PastRetrain] = []
    promoted_at: datetime | None = None

    def until(self, moment: datetime) -> "Past":
        """What was known at a moment: nothing that was decided later, so a replay cannot see ahead."""
        return Past(
            windows=[w for w in self.windows if w.at <= moment],
            retrains=[r for r in self.retrains if r.at <= moment],
            promoted_at=self.promoted_at if self.promoted_at and self.promoted_at <= moment else None,
        )

    def before(self, start: datetime, end: datetime) -> list[PastWindow]:
        """The windows before [start, end), oldest first: by their ends, for windows since a promotion share their start."""
        return [w for w in self.windows if (w.end, w.start) < (end, start)]

    def without(self, decision_id: str) -> "Past":
        """All but the decision that is about to be made (again), whichever name it went by."""
        asked = asked_of(decision_id)
        return self.model_copy(update={"windows": [w for w in self.windows if w.asked != asked]})


def has_other_rows(earlier: PastWindow, start: datetime, end: datetime) -> bool:
    """Whether an earlier window is a look of its own beside [start, end): none of its rows lie there.

    A window since a promotion holds all before it; one counts beside it that is at most half as long, so that most rows
    have come since.
    """
    if earlier.start == start:
        return end - earlier.end >= earlier.end - earlier.start
    return earlier.end <= start


def apart(windows: Sequence[PastWindow], start: datetime, end: datetime) -> list[PastWindow]:
    """Of the windows before [start, end), oldest first, those with other rows than it and than each other, newest kept.

    A window that slides on by an hour shows the same rows again: what it repeats is no second sign of anything.
    """
    found: list[PastWindow] = []
    for window in reversed(windows):
        if has_other_rows(window, start, end):
            found.append(window)
            start, end = window.start, window.end
    return found[::-1]


def read_past(rows: Iterable[Mapping[str, Any]]) -> Past:
    """The past in rows of the table of decisions, of one pipeline; other kinds than the policy's are passed over.

    A decision to retrain that has not ended is `running`: whether or not a run has claimed it, one is on its way.
    """
    found = [dict(row) for row in rows]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        by_kind.setdefault(row["kind"], []).append(row)
    judged = sorted((r for r in by_kind.get("monitor", []) if r["window_start"] is not None), key=lambda r: r["as_of"])
    # A window that was judged again counts once, as it was judged last.
    latest = {(row["version"], row["window_start"], row["window_end"]): row for row in judged}
    windows = [_window(row) for row in latest.values()]
    ends = {row["decision_id"]: row for row in by_kind.get("retrain", [])}
    claims = {row["decision_id"]: row for row in by_kind.get("claim", [])}
    retrains = [
        _retrain(row, ends.get(row["decision_id"]), claims.get(row["decision_id"]))
        for row in by_kind.get("monitor", [])
        if row["verdict"] == "retrain"
    ]
    # What was promoted and then rolled back did not help: the breaker counts it like a rejection.
    withdrawn = {(row["version"], row["as_of"]) for row in ends.values() if row["verdict"] == "rolled_back"}
    promotions = [
        row["as_of"]
        for row in by_kind.get("promotion", [])
        if row["verdict"] == "promote" and (row["version"], row["as_of"]) not in withdrawn
    ]
    return Past(
        windows=sorted(windows, key=lambda w: (w.end, w.start, w.at)),
        retrains=sorted(retrains, key=lambda r: r.at),
        promoted_at=max(promotions, default=None),
    )


def _window(row: Mapping[str, Any]) -> PastWindow:
    told = {name: value for name, value in json.loads(row["evidence"]).items() if name not in BULKY}
    return PastWindow(
        decision_id=row["decision_id"],
        start=row["window_start"],
        end=row["window_end"],
        at=row["as_of"],
        verdict=row["verdict"],
        evidence=Evidence.model_validate({"version": row["version"], "rows": 0} | told),
        guard=told.get("guard"),
    )


def _retrain(
    decided: Mapping[str, Any], ended: Mapping[str, Any] | None, claim: Mapping[str, Any] | None
) -> PastRetrain:
    seconds = None
    if ended and claim and ended.get("recorded_at") and claim.get("recorded_at"):
        seconds = (ended["recorded_at"] - claim["recorded_at"]).total_seconds()
    return PastRetrain(
        decision_id=decided["decision_id"],
        at=decided["as_of"],
        ended=ended["verdict"] if ended else "running",
        version=ended["version"] if ended else None,
        seconds=seconds,
    )
