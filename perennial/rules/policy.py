"""The policy: what one window's evidence means, given all that went before. Pure: no data, no clock, no I/O.

evidence (one Evidently run) ─► judge_window: what the window alone says ─┐
past windows and retrains ────────────────────────────────────────────────┼─► decide ─► retrain │ hold │ page
policy, moment ───────────────────────────────────────────────────────────┘

`decide` is a function of (evidence, past, policy, moment) and of nothing else: `monitor`, `backtest` and the trial on
synthetic streams call it alike, and whatever the past holds of later moments is not looked at.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import BaseModel

from perennial.rules.drift import say_metric
from perennial.rules.evidence import Check, Evidence, Performance, allowed_loss
from perennial.rules.guards import Guard, find_guard, train_from
from perennial.rules.past import Past, PastWindow, apart
from perennial.rules.promise import standing_rejection
from perennial.spec import Monitoring

Word = Literal["retrain", "hold", "page"]
Cause = Literal["performance", "inputs", "broken", "silence", "none"]


class Signal(NamedTuple):
    """What a window alone says: a wish to retrain is not yet a verdict. `sure`: it need not be seen again."""

    verdict: Word
    cause: Cause
    reason: str
    sure: bool = False


class Verdict(BaseModel, frozen=True):
    """What is done, and why, in sentences with their numbers.

    Args:
        guard: what held a retrain back that the evidence asked for, or a page that was sent before; None: nothing did.
        expected_gain: of retraining, in the metric's unit: what was lost that harder rows do not explain. None: unknown.
        expected_seconds: median of the pipeline's retrains so far; None: there was none.
        train_from: the oldest event time the retrain should learn from; None: all there is.
    """

    verdict: Word
    cause: Cause
    reason: str
    guard: Guard | None = None
    expected_gain: float | None = None
    expected_seconds: float | None = None
    train_from: datetime | None = None


def decide(
    evidence: Evidence, past: Past, policy: Monitoring, moment: datetime, start: datetime, end: datetime
) -> Verdict:
    """The verdict on the window [start, end) of `evidence.version`, with the knowledge of `moment`."""
    past = past.until(moment)
    signal = judge_window(evidence, policy)
    if signal.verdict == "page":
        return _page_once(signal, evidence, past.before(start, end), policy)
    if signal.verdict == "hold":
        return Verdict(verdict="hold", cause=signal.cause, reason=signal.reason)
    costs = sorted(r.seconds for r in past.retrains if r.seconds is not None)
    wish = Verdict(
        verdict="retrain",
        cause=signal.cause,
        reason=signal.reason,
        expected_gain=expected_gain(evidence),
        expected_seconds=costs[len(costs) // 2] if costs else None,
    )
    guard = _too_few_alarms(signal, evidence, past, policy, start, end) or find_guard(evidence, past, policy, moment)
    if guard is None:
        return wish.model_copy(update={"train_from": train_from(past, evidence.version, policy, moment, start, end)})
    verdict: Word = "page" if guard.pages else "hold"
    return wish.model_copy(update={"verdict": verdict, "guard": guard, "reason": f"{signal.reason} {guard.reason}"})


def judge_window(evidence: Evidence, policy: Monitoring) -> Signal:
    """Broken feeds first, then performance where enough labels arrived, inputs only where they did not."""
    if evidence.rows == 0 and evidence.other_rows:
        others = f"All {evidence.other_rows:,} predictions of the window were answered by other versions"
        return Signal("hold", "none", f"{others}; version {evidence.version} has not been tried in it.")
    if evidence.rows == 0:
        return Signal(
            "page",
            "silence",
            "No prediction was logged in the window: either nothing was asked, or requests or their log are broken. "
            "Look at the endpoint and at the prediction log; retraining cannot help.",
        )
    if _silent(evidence, policy):
        assert evidence.freshness_seconds is not None
        return Signal(
            "page",
            "silence",
            f"The newest prediction is {evidence.freshness_seconds / 3600:,.0f} hours old; the policy's window.length allows "
            f"{policy.window.length.total_seconds() / 3600:,.0f}. Look at the endpoint and at the prediction log; retraining "
            "cannot help.",
        )
    if evidence.fails(Check.BROKEN) or (evidence.fails(Check.MISSING) and not evidence.fails(Check.ROWS)):
        return Signal("page", "broken", _say_broken(evidence))
    if evidence.fails(Check.ROWS):
        few = f"{evidence.rows:,} predictions are too few to judge; the policy asks for {policy.minimum_rows:,}."
        return Signal("hold", "none", few)
    if evidence.performance and not evidence.fails(Check.LABELS):
        return _judge_performance(evidence, evidence.performance, policy)
    return _judge_inputs(evidence, policy)


def expected_gain(evidence: Evidence) -> float | None:
    """What retraining may win back, in the metric's unit.

    The loss against the promise; where the scores let one expect a worse metric, because the window's rows are harder,
    only what lies beyond that, for a new model finds the same rows hard.
    """
    seen, guessed = evidence.performance, evidence.estimate
    if seen is None:
        return guessed.loss if guessed else None
    if guessed is None or guessed.loss <= 0:
        return seen.loss
    return max(seen.loss - guessed.loss, 0.0)


def _judge_performance(evidence: Evidence, seen: Performance, policy: Monitoring) -> Signal:
    measured = (
        f"{say_metric(seen.metric)} {seen.measured:.3f} (95% {seen.low:.3f} to {seen.high:.3f}) on "
        f"{evidence.labelled_rows:,} labelled rows"
    )
    if _worthless(evidence):
        return Signal(
            "page",
            "broken",
            f"{measured} cannot be held against the promise of {seen.promised:.3f}, which is itself no better than a "
            "worthless model's. Look at the training data and at the label.",
        )
    if seen.loss <= 0:
        return Signal("hold", "performance", f"{measured} keeps the promise of {seen.promised:.3f}.")
    behind = f"{measured} is {seen.loss:.3f} ({seen.loss_share:.0%}) behind the promise of {seen.promised:.3f}"
    allowed = f"{allowed_loss(seen.metric, seen.distance, policy):.3f}"
    if not evidence.fails(Check.LOSS):
        return Signal("hold", "performance", f"{behind}; {allowed} is allowed.")
    if not evidence.fails(Check.CERTAIN_LOSS):
        chance = f"{behind}, more than the {allowed} allowed, but chance may explain it."
        return Signal("hold", "performance", chance)
    sure = evidence.fails(Check.SURE_LOSS)
    say = f"{behind}; {allowed} is allowed, and chance does not explain it."
    return Signal("retrain", "performance", say, sure)


def _judge_inputs(evidence: Evidence, policy: Monitoring) -> Signal:
    drifted = evidence.drifted_inputs
    named = ", ".join(f"{name} {evidence.drift[name]:.2f}" for name in drifted[:3])
    seen = (
        f"Only {evidence.labelled_rows:,} labels can be judged ({policy.minimum_rows:,} are needed), so inputs decide: "
        f"{len(drifted)} of {len(evidence.drift)} drifted by {policy.drift_effect_size:g} and more than chance"
        + (f" ({named})" if named else "")
    )
    if evidence.seasonal_drift is not None:
        seen += ", also against the season before"
    guessed = evidence.estimate
    if guessed:
        seen += f"; the scores let one expect {say_metric(guessed.metric)} {guessed.value:.3f}, promised {guessed.promised:.3f}"
    seen += f"; the policy allows up to {policy.maximum_drifted_share:.0%}."
    if evidence.disagreements:
        seen += f" Sample and full data disagree on {', '.join(evidence.disagreements[:5])}; the full data count."
    drifts = evidence.fails(Check.ALL_DRIFT)
    return Signal("retrain" if drifts else "hold", "inputs", seen)


def _too_few_alarms(
    signal: Signal, evidence: Evidence, past: Past, policy: Monitoring, start: datetime, end: datetime
) -> Guard | None:
    if signal.sure:
        return None
    earlier = [w for w in past.before(start, end) if w.evidence.version == evidence.version]
    others = apart(earlier, start, end)[-(policy.of_windows - 1) :] if policy.of_windows > 1 else []
    if standing_rejection(past, earlier):
        return Guard(
            name="alarms",
            reason=f"But a retrain for version {evidence.version} was rejected before: the next one needs a loss "
            "beyond doubt (one chance in a thousand).",
        )
    alarms = 1 + sum(_alarmed(w, policy) for w in others)
    if alarms >= policy.alarms:
        return None
    return Guard(
        name="alarms",
        reason=f"But {alarms} of the last {policy.of_windows} windows that share no rows raised an alarm and the policy "
        f"asks for {policy.alarms}: it may be noise.",
    )


def _alarmed(window: PastWindow, policy: Monitoring) -> bool:
    return judge_window(window.evidence, policy).verdict == "retrain"


def _page_once(signal: Signal, evidence: Evidence, earlier: Sequence[PastWindow], policy: Monitoring) -> Verdict:
    """A person is called once for one trouble, not again for every window that it lasts."""
    last = earlier[-1] if earlier else None
    known = (
        last is not None
        and _same_trouble(last.evidence, evidence, policy)
        and (last.verdict == "page" or last.guard == "paged")
    )
    if known:
        guard = Guard(
            name="paged", reason="A person was paged for this already; retraining stays blocked until it is over."
        )
        reason = f"{signal.reason} {guard.reason}"
        return Verdict(verdict="hold", cause=signal.cause, reason=reason, guard=guard)
    return Verdict(verdict="page", cause=signal.cause, reason=signal.reason)


def _same_trouble(before: Evidence, now: Evidence, policy: Monitoring) -> bool:
    if _silent(now, policy) or _silent(before, policy):
        return _silent(now, policy) and _silent(before, policy)
    if now.broken_inputs:
        return set(now.broken_inputs) <= set(before.broken_inputs)
    return now.version == before.version and _worthless(now) and _worthless(before)


def _silent(evidence: Evidence, policy: Monitoring) -> bool:
    """Whether nobody is answered: windows that reach back as far as they must never run empty, but their rows grow old."""
    if evidence.rows == 0:
        return True
    reaches_back = policy.window.by in ("rows", "since_promotion")
    age = evidence.freshness_seconds
    return reaches_back and age is not None and age > policy.window.length.total_seconds()


def _worthless(evidence: Evidence) -> bool:
    """Whether the version is held to a promise that a worthless model would keep: a lowered one, or a bad start."""
    return evidence.performance is not None and evidence.performance.distance <= 0


def _say_broken(evidence: Evidence) -> str:
    lost = [n for n in evidence.broken_inputs if n in evidence.missing and n not in evidence.broken]
    named = [f"{name} (+{evidence.missing[name]:.0%} missing against the reference)" for name in lost]
    named += [f"{name} ({what})" for name, what in evidence.broken.items()]
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    count = f"{len(evidence.broken_inputs)} of {len(evidence.missing)} inputs" if evidence.missing else "An input"
    return (
        f"{count} broken: {', '.join(named[:5])}{more}. This is a broken feed, not drift: repair the feed; retraining "
        "would teach the model the damage."
    )
