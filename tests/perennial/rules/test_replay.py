"""Replays over a history that is written down: what each model is worth in each window is known, so is each course."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from perennial.rules.contest import PromotionVerdict
from perennial.rules.evidence import Evidence, Performance
from perennial.rules.recommend import recommend, settle
from perennial.rules.replay import (
    Course,
    NotKnownYet,
    Span,
    Strategy,
    Trained,
    Work,
    cut_windows,
    replay,
    usual_strategies,
)
from perennial.spec import Monitoring

START = datetime(2026, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
WINDOWS = cut_windows(START, START + 20 * WEEK, "7d")
OWN = Monitoring(cool_down=timedelta(0), alarms=2, of_windows=3)


class Written:
    """A world whose metric falls from 0.80 to 0.70 in window `breaks` for every model trained before its end."""

    def __init__(self, breaks: int | None, asked: list[tuple[str, datetime]] | None = None) -> None:
        self.breaks = breaks
        self.asked = asked if asked is not None else []

    def worth(self, at: datetime, window: Span) -> float:
        broken = self.breaks is not None and window.start >= WINDOWS[self.breaks].start
        return 0.70 if broken and at <= WINDOWS[self.breaks or 0].end else 0.80

    def train(self, at: datetime, train_from: datetime | None) -> Trained:
        self.asked.append(("train", at))
        return Trained(key=f"m-{at:%Y%m%d}", at=at, rows=1_000, seconds=10.0, promised=(0.80, 0.79, 0.81))

    def look(self, model: Trained, since: datetime, window: Span, at: datetime, policy: Monitoring) -> Evidence:
        self.asked.append(("look", at))
        seen = self.worth(model.at, window)
        performance = Performance(metric="roc_auc", promised=0, measured=seen, low=seen - 0.01, high=seen + 0.01)
        return Evidence(version=0, rows=5_000, labelled_rows=5_000, performance=performance)

    def judge(self, challenger: Trained, champion: Trained, at: datetime, policy: Monitoring) -> PromotionVerdict:
        self.asked.append(("judge", at))
        now = max(window for window in WINDOWS if window.end <= at)
        better = self.worth(challenger.at, now) >= self.worth(champion.at, now)
        return PromotionVerdict(verdict="promote" if better else "reject", reason="as written", answer="better")


def course(strategy: Strategy, breaks: int | None) -> Course:
    return replay(strategy, WINDOWS, START, timedelta(0), "roc_auc", Written(breaks))


def strategies() -> dict[str, Strategy]:
    return {strategy.name: strategy for strategy in usual_strategies(OWN)}


def test_never_and_every_window_do_what_they_say() -> None:
    assert course(strategies()["never"], 5).retrains == 0
    every = course(strategies()["every window"], 5)
    assert (every.retrains, every.promoted, len(every.reigns)) == (20, 20, 21)


def test_a_world_that_stays_as_it_is_asks_for_no_retrain() -> None:
    assert [course(strategy, None).retrains for name, strategy in strategies().items() if name != "every window"] == [
        0
    ] * 6


def test_a_loss_that_lasts_is_answered_and_the_new_model_is_taken() -> None:
    own = course(strategies()["own"], 5)
    first = next(step for step in own.steps if step.verdict == "retrain")
    assert first.window in (WINDOWS[5], WINDOWS[6])
    assert first.ended == "promoted"
    assert own.retrains <= 2


def test_input_drift_alone_never_looks_at_labels() -> None:
    assert course(strategies()["on input drift"], 5).retrains == 0


def test_nothing_is_asked_of_a_later_moment_than_the_one_being_decided() -> None:
    asked: list[tuple[str, datetime]] = []
    replay(strategies()["own"], WINDOWS, START, WEEK, "roc_auc", Written(5, asked))
    moments = [at for _, at in asked]
    assert moments == sorted(moments)
    assert moments[1] == WINDOWS[0].end + WEEK


def test_what_is_not_known_yet_is_asked_for_and_the_replay_begins_again() -> None:
    class Forgetful(Written):
        def look(self, model: Trained, since: datetime, window: Span, at: datetime, policy: Monitoring) -> Evidence:
            raise NotKnownYet(Work(key="look-1", kind="look", at=at))

    with pytest.raises(NotKnownYet, match="look-1"):
        replay(strategies()["own"], WINDOWS, START, timedelta(0), "roc_auc", Forgetful(5))


def test_a_model_that_cannot_be_trained_leaves_the_champion() -> None:
    class Untrainable(Written):
        def train(self, at: datetime, train_from: datetime | None) -> Trained:
            found = super().train(at, train_from)
            return found if at == START else found.model_copy(update={"failure": "3 labelled rows are known"})

    own = replay(strategies()["own"], WINDOWS, START, timedelta(0), "roc_auc", Untrainable(5))
    assert own.promoted == 0
    assert len(own.reigns) == 1
    assert {step.ended for step in own.steps if step.trained} == {"failed"}


def test_the_cheapest_policy_that_is_as_good_as_the_best_is_recommended() -> None:
    found = {
        name: course(strategy, 5) for name, strategy in strategies().items() if name in ("never", "every window", "own")
    }
    world = Written(5)
    by_window: dict[str, list[float | None]] = {}
    for name, each in found.items():
        at = {key: moment for moment, key in [(START, each.reigns[0][1]), *each.reigns[1:]]}
        served = [[key for since, key in each.reigns if since <= window.start][-1] for window in WINDOWS]
        by_window[name] = [world.worth(at[key], window) for key, window in zip(served, WINDOWS, strict=True)]
    best: list[float | None] = [0.80] * len(WINDOWS)
    accounts = settle("roc_auc", list(found.values()), by_window, best)
    shares = {account.name: account.gained_share for account in accounts}
    assert shares["never"] == 0
    assert shares["every window"] == 1
    chosen = recommend("roc_auc", accounts)
    assert chosen.name == "own"
    assert "retrains" in chosen.reason


def test_a_policy_with_another_training_window_says_so() -> None:
    assert [s.name for s in usual_strategies(replace(OWN, training="sliding"))][-2:] == [
        "own, expanding",
        "own, since change",
    ]
