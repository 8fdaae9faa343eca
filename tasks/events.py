"""What Perennial tells the world: every event's name and payload in one place (docs/events.md).

An event is a doorbell, never the truth: the row of `decisions` that it names is committed before it is sent, and
`reconcile` makes good what an event should have started. A consumer may see one twice, late, or not at all.
"""

from datetime import datetime
from typing import ClassVar
from uuid import NAMESPACE_URL, uuid5

from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from pydantic import BaseModel


class Event(BaseModel, frozen=True):
    """What every payload holds.

    Args:
        decision_id: the row of `decisions` that the event is about.
        reason: the row's sentence, with its numbers.
    """

    name: ClassVar[str]
    pages: ClassVar[bool] = False

    pipeline: str
    decision_id: str
    reason: str
    as_of: datetime

    @property
    def calls_a_person(self) -> bool:
        """Whether the event bears the label that alerts go by."""
        return self.pages


class _Window(Event):
    version: int | None
    window_start: datetime | None
    window_end: datetime | None


class DriftDetected(_Window):
    """Inputs drifted while labels are missing, and the verdict is retrain."""

    name = "perennial.drift.detected"
    drifted_inputs: list[str] = []


class PerformanceDegraded(_Window):
    """The metric fell behind the promise, and the verdict is retrain."""

    name = "perennial.performance.degraded"
    metric: str = ""
    promised: float | None = None
    measured: float | None = None
    expected_gain: float | None = None


class DataBroken(_Window):
    """A feed is broken or silent: the verdict is page, and retraining is blocked until it is repaired."""

    name = "perennial.data.broken"
    pages = True
    broken: dict[str, str] = {}


class RetrainSuppressed(_Window):
    """The evidence asked for a retrain and a guard held it back. `guard`: which; the breaker calls a person."""

    name = "perennial.retrain.suppressed"
    guard: str

    @property
    def calls_a_person(self) -> bool:
        """The circuit breaker does."""
        return self.guard == "breaker"


class RetrainStarted(Event):
    """A run has claimed the decision and begins."""

    name = "perennial.retrain.started"
    run_id: str


class RetrainSucceeded(Event):
    """The retrain came to its end. `ended`: promoted, rejected or inconclusive; `version`: what it trained."""

    name = "perennial.retrain.succeeded"
    version: int
    ended: str


class RetrainFailed(Event):
    """A retrain's run failed. The champion serves on; `serving`: which version that is."""

    name = "perennial.retrain.failed"
    pages = True
    run_id: str
    serving: int | None


class _Model(Event):
    version: int
    former: int | None = None


class _Judged(_Model):
    answer: str = ""


class ModelPromoted(_Judged):
    """A version may serve; `former` is the champion it was held against. `answer`: the rule that decided (docs/promotion.md)."""

    name = "perennial.model.promoted"


class ModelRejected(_Judged):
    """A version may not serve: it is no better, cannot be served, or was not approved. The champion serves on."""

    name = "perennial.model.rejected"


class ModelInconclusive(_Judged):
    """Nothing is shown either way: too few labels, say. The champion serves on, and more labels may tell."""

    name = "perennial.model.inconclusive"


class ModelRolledBack(_Model):
    """A version was tried and failed; `former` serves again."""

    name = "perennial.model.rolled_back"
    pages = True


EVENTS: tuple[type[Event], ...] = (
    DriftDetected,
    PerformanceDegraded,
    DataBroken,
    RetrainStarted,
    RetrainSuppressed,
    RetrainSucceeded,
    RetrainFailed,
    ModelPromoted,
    ModelRejected,
    ModelInconclusive,
    ModelRolledBack,
)


def emit(event: Event, *, once: bool = False) -> None:
    """Send the event before this returns: a process that exits right after it takes unsent events with it.

    Args:
        once: sent again by a rerun it has the same id, and the server keeps one.
    """
    same = uuid5(NAMESPACE_URL, f"{event.name}/{event.decision_id}")
    emit_event(
        event.name,
        id=same if once else None,
        resource={
            "prefect.resource.id": f"perennial.pipeline.{event.pipeline}",
            "prefect.resource.name": event.pipeline,
            "perennial.decision": event.decision_id,
            "perennial.page": "yes" if event.calls_a_person else "no",
        },
        payload=event.model_dump(mode="json"),
    )
    EventsWorker.instance().drain()
