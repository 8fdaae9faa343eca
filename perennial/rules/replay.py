"""A pipeline's history once more under another policy: who would have served when, and what it would have cost. Pure.

bootstrap ─► model ─► window ─► evidence ─► decide (the monitor's own) ─► retrain ─► promotion ─► who serves next
                        ▲                                                                             │
                        └─────────────────────────────────────────────────────────────────────────────┘

What is known of models and windows comes from outside (`Knowledge`), piece by piece: what is not known yet is asked for
by `NotKnownYet`, found out (in parallel, and kept), and the replay begins again. Nothing later than a moment is asked
for at that moment, so nothing later can enter a decision.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol

import polars as pl
from pydantic import BaseModel

from perennial.rules.contest import PromotionVerdict
from perennial.rules.evidence import Evidence, with_outcomes
from perennial.rules.feeds import find_few_rows
from perennial.rules.metrics import Interval
from perennial.rules.past import Ended, Past, PastRetrain, PastWindow
from perennial.rules.policy import decide
from perennial.rules.promise import promise_for
from perennial.spec import Monitoring

UNLIMITED = 1_000_000
BEGINNING = datetime.min.replace(tzinfo=UTC)
"""From when on the first model answers: rows of the first window may have been asked for before the bootstrap."""


class Span(NamedTuple):
    """A window of event time, [start, end)."""

    start: datetime
    end: datetime


class Trained(BaseModel, frozen=True):
    """A model as the replay knows it.

    Args:
        at: the moment whose knowledge it was trained with. `train_from`: the oldest event time it learned from.
        promised: the metric on its holdout rows, and the 95% interval; None where it is not defined.
        importance: per input what shuffling it cost the metric on holdout rows.
        failure: why it could not be trained; then nothing else of it counts.
    """

    key: str
    at: datetime
    train_from: datetime | None = None
    holdout_start: datetime | None = None
    rows: int = 0
    seconds: float = 0.0
    promised: tuple[float | None, float | None, float | None] = (None, None, None)
    importance: dict[str, float] = {}
    failure: str | None = None


class Strategy(BaseModel, frozen=True):
    """One policy to replay.

    Args:
        says: what it does, for people.
        monitoring: how windows are judged; None: they are not.
        every_window: train and take a model after every window, whatever it is worth: what a schedule does.
        inputs_only: labels are not looked at.
    """

    name: str
    says: str
    monitoring: Monitoring | None = None
    every_window: bool = False
    inputs_only: bool = False


class Knowledge(Protocol):
    """What can be found out. Each raises `NotKnownYet` until it has been."""

    def train(self, at: datetime, train_from: datetime | None) -> Trained:
        """The model trained on what was known at a moment."""

    def look(self, model: Trained, since: datetime, window: Span, at: datetime, policy: Monitoring) -> Evidence:
        """Figures of the rows of a window that a model, serving from `since` on, would have answered; no outcomes."""

    def judge(self, challenger: Trained, champion: Trained, at: datetime, policy: Monitoring) -> PromotionVerdict:
        """Both models on the labelled rows that neither was trained on."""


class NotKnownYet(Exception):
    """Something has to be found out before the replay can go on."""

    def __init__(self, work: "Work") -> None:
        super().__init__(work.key)
        self.work = work


class Work(BaseModel, frozen=True):
    """One thing to find out: a training, a look at a window, or a comparison. `key` names it for ever.

    Args:
        drift_effect_size, sample_rows: of the policy that looks; nothing else of it changes what is seen.
    """

    key: str
    kind: Literal["train", "look", "judge"]
    at: datetime
    train_from: datetime | None = None
    model: str | None = None
    champion: str | None = None
    since: datetime | None = None
    window: Span | None = None
    drift_effect_size: float | None = None
    sample_rows: int | None = None


class Step(BaseModel, frozen=True):
    """What was decided after one window. `ended`: how the retrain came out, None where there was none."""

    window: Span
    at: datetime
    model: str
    verdict: Literal["retrain", "hold", "page"]
    reason: str
    guard: str | None = None
    trained: str | None = None
    ended: Ended | None = None
    because: str = ""


class Course(BaseModel, frozen=True):
    """How history would have gone. `reigns`: from when on which model answers, oldest first."""

    strategy: Strategy
    reigns: list[tuple[datetime, str]]
    steps: list[Step]
    seconds: float

    @property
    def retrains(self) -> int:
        """Trainings after the bootstrap."""
        return sum(step.trained is not None for step in self.steps)

    @property
    def promoted(self) -> int:
        """Trainings whose model took over."""
        return sum(step.ended == "promoted" for step in self.steps)

    @property
    def pages(self) -> int:
        """How often a person would have been called."""
        return sum(step.verdict == "page" for step in self.steps)


def usual_strategies(own: Monitoring) -> list[Strategy]:
    """What every policy is held against, the pipeline's own, and that one with other training windows."""
    trigger = replace(
        own, alarms=1, of_windows=1, cool_down=timedelta(0), retrains=UNLIMITED, breaker=UNLIMITED, season=None
    )
    found = [
        Strategy(name="never", says="the first model serves for ever"),
        Strategy(name="every window", says="a new model after every window, taken unseen", every_window=True),
        Strategy(
            name="on input drift",
            says="as soon as too many inputs drift, labels not looked at",
            monitoring=trigger,
            inputs_only=True,
        ),
        Strategy(
            name="on performance drop",
            says="as soon as the metric falls behind the promise by more than is allowed and than chance",
            monitoring=replace(trigger, maximum_drifted_share=1.0),
        ),
        Strategy(name="own", says=f"the pipeline's own policy, training window {own.training}", monitoring=own),
    ]
    trainings: tuple[Literal["expanding", "sliding", "since_change"], ...] = ("expanding", "sliding", "since_change")
    found += [
        Strategy(
            name=f"own, {training.replace('_', ' ')}",
            says=f"the pipeline's own policy, training window {training}",
            monitoring=replace(own, training=training),
        )
        for training in trainings
        if training != own.training
    ]
    return found


def replay(
    strategy: Strategy, windows: Sequence[Span], bootstrap: datetime, lag: timedelta, metric: str, known: Knowledge
) -> Course:
    """How history would have gone under a strategy.

    Args:
        windows: in order; each is judged `lag` after its end, with the labels known by then.
        bootstrap: the first model is trained with the knowledge of this moment.

    Raises:
        NotKnownYet: something has to be found out first; then ask again.
    """
    course = _Course(strategy, metric, known, known.train(bootstrap, None))
    for window in windows:
        course.go_through(window, window.end + lag)
    return Course(strategy=strategy, reigns=course.reigns, steps=course.steps, seconds=course.seconds)


class _Course:
    """A replay under way."""

    def __init__(self, strategy: Strategy, metric: str, known: Knowledge, first: Trained) -> None:
        self.strategy, self.metric, self.known = strategy, metric, known
        self.models = {first.key: first}
        self.reigns: list[tuple[datetime, str]] = [(BEGINNING, first.key)]
        self.steps: list[Step] = []
        self.past = Past()
        self.seconds = 0.0

    def go_through(self, window: Span, at: datetime) -> None:
        """Judge a window at a moment and do what the verdict asks for."""
        since, key = self._who_answered(window)
        champion, verdict, reason, guard, train_from = self.models[key], "hold", "", None, None
        if self.strategy.every_window:
            verdict, reason = "retrain", "the schedule says so"
        elif self.strategy.monitoring is not None:
            policy = self.strategy.monitoring
            evidence = self._evidence(champion, since, window, at, policy)
            judged = decide(evidence, self.past, policy, at, window.start, window.end)
            verdict, reason, train_from = judged.verdict, judged.reason, judged.train_from
            guard = judged.guard.name if judged.guard else None
            self._remember(window, at, judged.verdict, evidence, guard)
        step = Step(window=window, at=at, model=key, verdict=verdict, reason=reason, guard=guard)
        self.steps.append(self._retrain(step, train_from) if verdict == "retrain" else step)

    def _who_answered(self, window: Span) -> tuple[datetime, str]:
        """The champion of the window's last rows, as `monitor` picks it."""
        return [(since, key) for since, key in self.reigns if since < window.end][-1]

    def _evidence(self, model: Trained, since: datetime, window: Span, at: datetime, policy: Monitoring) -> Evidence:
        evidence = self.known.look(model, since, window, at, policy)
        version = 1 + list(self.models).index(model.key)
        seen, guessed = evidence.performance, evidence.estimate
        changed = {"version": version, "importance": model.importance}
        if self.strategy.inputs_only:
            seen, changed = None, {**changed, "labelled_rows": 0}
        told = Interval(*(math.nan if value is None else value for value in model.promised))
        promise = promise_for(told, self.metric, version, self.past, policy, *window)
        if math.isfinite(promise.value):
            held = {"promised": promise.value, "promised_low": promise.low, "promised_high": promise.high}
            seen = seen and seen.model_copy(update=held)
            guessed = guessed and guessed.model_copy(update={"promised": promise.value})
        else:
            seen = guessed = None
        earlier = [w.evidence.rows + w.evidence.other_rows for w in self.past.windows]
        few = find_few_rows(evidence.rows + evidence.other_rows, earlier)
        broken = evidence.broken | ({"feed": few} if few else {})
        return with_outcomes(
            evidence.model_copy(update={**changed, "performance": seen, "estimate": guessed, "broken": broken}), policy
        )

    def _remember(
        self, window: Span, at: datetime, verdict: Literal["retrain", "hold", "page"], seen: Evidence, guard: str | None
    ) -> None:
        key = self._decision(window)
        told = PastWindow(
            decision_id=key, start=window.start, end=window.end, at=at, verdict=verdict, evidence=seen, guard=guard
        )
        self.past = self.past.model_copy(update={"windows": [*self.past.windows, told]})

    def _retrain(self, step: Step, train_from: datetime | None) -> Step:
        trained = self.known.train(step.at, train_from)
        champion = self.models[self.reigns[-1][1]]
        ended: Ended = "promoted"
        because = trained.failure or ""
        if trained.failure:
            ended = "failed"
        elif not self.strategy.every_window:
            assert self.strategy.monitoring is not None
            judged = self.known.judge(trained, champion, step.at, self.strategy.monitoring)
            because = judged.reason
            ended = {"promote": "promoted", "reject": "rejected"}.get(judged.verdict, "inconclusive")  # type: ignore[assignment]
        if not trained.failure:
            self.models.setdefault(trained.key, trained)
        if ended == "promoted":
            self.reigns.append((step.at, trained.key))
        self.seconds += trained.seconds
        told = PastRetrain(decision_id=self._decision(step.window), at=step.at, ended=ended, seconds=trained.seconds)
        promoted_at = step.at if ended == "promoted" else self.past.promoted_at
        self.past = self.past.model_copy(update={"retrains": [*self.past.retrains, told], "promoted_at": promoted_at})
        return step.model_copy(update={"trained": trained.key, "ended": ended, "because": because})

    def _decision(self, window: Span) -> str:
        return f"{self.strategy.name}/{window.start.isoformat()}"


def cut_windows(first: datetime, last: datetime, every: str) -> list[Span]:
    """Whole windows of a length (`1mo`, `7d`, `12h`) between two moments; a rest at the end is left out."""
    edges = pl.datetime_range(first, last, every, time_unit="us", eager=True).to_list()
    return [Span(start, end) for start, end in pairwise(edges)]
