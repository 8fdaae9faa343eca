"""The policy on seeded synthetic streams: what it retrains for, what it misses, how late it is. `make bench-streams`.

A stream is 100 windows of 5,000 labelled rows and six inputs; a logistic model is fitted on the first rows, judged on a
holdout, and refitted when the policy says so. The policy is the one that `monitor` runs (`perennial.rules.policy`), with
the outcomes that Evidently would give (`with_outcomes`). Nothing else of Perennial runs, so a stream takes seconds.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perennial.rules.drift import drift_bound
from perennial.rules.estimate import Reliability, calibrate, estimate_metric, reliability
from perennial.rules.evidence import Estimate, Evidence, Performance, with_outcomes
from perennial.rules.feeds import find_broken, find_few_rows
from perennial.rules.metrics import Interval, bootstrap, roc_auc, roc_auc_error
from perennial.rules.past import Past, PastRetrain, PastWindow
from perennial.rules.policy import decide
from perennial.rules.promise import promise_for
from perennial.rules.sketch import Edges, Sketch, sketch_frame
from perennial.rules.sketch_scores import compare
from perennial.spec import Monitoring

Floats = NDArray[np.float64]
INPUTS = [f"x{number}" for number in range(6)]
ROWS, WINDOWS, BOOTSTRAP, SEASON = 5_000, 100, 4, 12
CHANGE = 40  # the window in which a drift begins
LOSS = 0.03  # of ROC AUC: what the drifts take
PATIENCE = 10  # windows within which a loss must be acted on
WEEK, EPOCH = timedelta(days=7), datetime(2024, 1, 1, tzinfo=UTC)
KINDS = ("none", "season", "sudden", "gradual", "recurring", "label_only", "covariate_only", "null_column", "unit")
TRUE_LOSSES = ("sudden", "gradual", "recurring", "label_only")
BASE = np.array([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])


@dataclass
class Stream:
    """One seeded world. `turn`: how far the label's direction is turned so that a model of before loses LOSS."""

    kind: str
    seed: int
    turn: float
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng([self.seed, KINDS.index(self.kind)])

    def window(self, number: int) -> tuple[pl.DataFrame, Floats]:
        """Inputs (ROWS of six numbers; x5 about 20) and labels of one window."""
        x = self.random.normal(size=(ROWS, 6))
        if self.kind == "season":
            x[:, :3] += 1.0 * np.sin(2 * np.pi * number / SEASON)
        if self.kind == "covariate_only" and number >= CHANGE:
            x[:, 3:5] += 1.0
        odds = x @ self._weights(number) - 0.5
        labels = (self.random.random(ROWS) < 1 / (1 + np.exp(-odds))).astype(np.float64)
        frame = pl.DataFrame({name: x[:, i] for i, name in enumerate(INPUTS)}).with_columns(pl.col("x5") * 4 + 20)
        if self.kind == "null_column" and CHANGE <= number < CHANGE + 5:
            frame = frame.with_columns(x1=pl.lit(None, pl.Float64))
        if self.kind == "unit" and CHANGE <= number < CHANGE + 5:
            frame = frame.with_columns(pl.col("x5") * 1.8 + 32)
        return frame, labels

    def _weights(self, number: int) -> Floats:
        share = 0.0
        if self.kind in ("sudden", "label_only"):
            share = float(number >= CHANGE)
        elif self.kind == "gradual":
            share = min(max((number - CHANGE) / 20, 0.0), 1.0)
        elif self.kind == "recurring":
            share = float(((number - CHANGE) // 20) % 2 == 0 and number >= CHANGE)
        return turned(share * self.turn)


def turned(angle: float) -> Floats:
    """The label's weights turned by an angle away from BASE, at the same length."""
    aside = np.array([-0.3, 0.6, -0.5, 0.9, -0.8, 0.0])
    aside -= BASE * (aside @ BASE) / (BASE @ BASE)
    aside *= np.linalg.norm(BASE) / np.linalg.norm(aside)
    return np.asarray(np.cos(angle) * BASE + np.sin(angle) * aside)


def turn_for(loss: float) -> float:
    """The angle at which the best model of before loses so much ROC AUC, by bisection on half a million rows."""
    random = np.random.default_rng(0)
    x, chance = random.normal(size=(500_000, 6)), random.random(500_000)

    def auc(angle: float) -> float:
        labels = chance < 1 / (1 + np.exp(-(x @ turned(angle) - 0.5)))
        return roc_auc(labels.astype(float), x @ BASE)

    low, high, whole = 0.0, np.pi / 2, auc(0.0)
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if whole - auc(middle) < loss else (low, middle)
    return float(high)


@dataclass
class Model:
    """A logistic regression, what it was promised to reach, and the reference it came with."""

    version: int
    weights: Floats
    means: Floats
    scales: Floats
    promise: Interval
    reference: pl.DataFrame
    labels: Floats

    @cached_property
    def edges(self) -> dict[str, Edges]:
        """Of the reference."""
        return {name: Edges.of(self.reference[name], "number") for name in INPUTS}

    @cached_property
    def states(self) -> dict[str, Sketch]:
        """Of the reference."""
        return sketch_frame(self.reference, self.edges)

    @cached_property
    def known(self) -> Reliability:
        """How often the scores of the reference were right."""
        return reliability(self.labels, self.scores(self.reference))

    def scores(self, rows: pl.DataFrame) -> Floats:
        """Probabilities; a missing input is its mean."""
        return _probabilities(_matrix(rows, self.means, self.scales), self.weights)


def fit(version: int, parts: list[tuple[pl.DataFrame, Floats]], promise_rows: int = ROWS) -> Model:
    """Fit on all but the newest rows, which give the promise with its interval."""
    rows, labels = pl.concat([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    train = rows.height - promise_rows
    values = rows[:train].select(INPUTS).fill_null(strategy="mean").to_numpy()
    means, scales = values.mean(axis=0), values.std(axis=0)
    matrix = _matrix(rows, means, scales)
    weights = _newton(matrix[:train], labels[:train])
    scores = _probabilities(matrix, weights)
    held = bootstrap("roc_auc", labels[train:], scores[train:], seed=version)
    sample = np.random.default_rng(version).choice(rows.height, min(rows.height, ROWS), replace=False)
    return Model(version, weights, means, scales, held, rows[np.sort(sample)], labels[np.sort(sample)])


def _matrix(rows: pl.DataFrame, means: Floats, scales: Floats) -> Floats:
    values = rows.select(INPUTS).to_numpy()
    return np.column_stack([np.nan_to_num((values - means) / scales), np.ones(rows.height)])


def _probabilities(matrix: Floats, weights: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-(matrix @ weights))))


def _newton(matrix: Floats, labels: Floats) -> Floats:
    weights = np.zeros(matrix.shape[1])
    for _ in range(8):
        p = _probabilities(matrix, weights)
        slope = (matrix * (p * (1 - p))[:, None]).T @ matrix + 1e-3 * np.eye(len(weights))
        weights += np.linalg.solve(slope, matrix.T @ (labels - p))
    return weights


def gather(
    rows: pl.DataFrame, labels: Floats, model: Model, past: Past, policy: Monitoring, start: datetime
) -> Evidence:
    """The evidence that `ray_jobs.drift.watch` gathers, of what bears on the verdict."""
    scores = model.scores(rows)
    promise = promise_for(model.promise, "roc_auc", model.version, past, policy, start, start + WEEK)
    value = roc_auc(labels, scores)
    half = 1.96 * roc_auc_error(value, labels.sum(), len(labels) - labels.sum())
    then, now = model.states, sketch_frame(rows, model.edges)
    drift = {n: compare(now[n], then[n]).wasserstein for n in INPUTS if now[n].rows}
    guess = estimate_metric("roc_auc", scores, calibrate(scores, model.known))
    assert guess
    few = find_few_rows(rows.height, [w.evidence.rows for w in past.windows])
    return with_outcomes(
        Evidence(
            version=model.version,
            rows=rows.height,
            labelled_rows=rows.height,
            performance=Performance(
                metric="roc_auc", promised=promise.value, promised_low=promise.low, promised_high=promise.high,
                measured=value, low=value - half, high=value + half,
            ),
            estimate=Estimate(
                metric="roc_auc", value=guess.value, low=guess.low, high=guess.high, promised=promise.value,
                measured=value,
            ),
            missing={n: now[n].missing_share - then[n].missing_share for n in INPUTS},
            broken=find_broken(rows[::3], model.reference[::3], dict.fromkeys(INPUTS, "number")) | ({"feed": few} if few else {}),
            drift=drift,
            drift_bounds={n: _bound(now[n], then[n], policy) for n in drift},
        ),
        policy,
    )  # fmt: skip


def _bound(now: Sketch, then: Sketch, policy: Monitoring) -> float:
    return drift_bound("number", policy, now.rows, then.rows, 0, len(INPUTS))


@dataclass
class Told:
    """What became of one stream: windows in which it was retrained, of those promoted, paged; delay of the first."""

    kind: str
    seed: int
    retrains: list[int] = field(default_factory=list)
    promoted: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)

    @property
    def delay(self) -> int | None:
        """Windows from the change to the first retrain after it, 0 in the very window; None: within PATIENCE none."""
        after = [number - CHANGE for number in self.retrains if number >= CHANGE]
        allowed = PATIENCE + (20 if self.kind == "gradual" else 0)  # it takes 20 windows to cost that much
        return after[0] if after and after[0] <= allowed else None


def replay(kind: str, seed: int, policy: Monitoring, turn: float, windows: int = WINDOWS) -> Told:
    """A stream from its first window to its last, under the policy; a challenger that is no better is not promoted."""
    stream, told, past = Stream(kind, seed, turn), Told(kind, seed), Past()
    first = SEASON if kind == "season" else BOOTSTRAP
    seen = [stream.window(number) for number in range(-first, 0)]
    model = fit(1, seen)
    for number in range(windows):
        rows, labels = stream.window(number)
        start, end = EPOCH + number * WEEK, EPOCH + (number + 1) * WEEK
        evidence = gather(rows, labels, model, past, policy, start)
        verdict = decide(evidence, past, policy, end, start, end)
        name = f"{kind}-{seed}-{number}"
        judged = PastWindow(
            decision_id=name, start=start, end=end, at=end, verdict=verdict.verdict, evidence=evidence,
            guard=verdict.guard.name if verdict.guard else None,
        )  # fmt: skip
        past = past.model_copy(update={"windows": [*past.windows, judged]})
        if verdict.verdict == "page":
            told.pages.append(number)
        if not evidence.broken and not evidence.broken_inputs:
            seen.append((rows, labels))
        if verdict.verdict != "retrain":
            continue
        told.retrains.append(number)
        challenger = fit(model.version + 1, seen[-BOOTSTRAP:])
        better = roc_auc(labels, challenger.scores(rows)) - roc_auc(labels, model.scores(rows)) > 0.005
        ended = PastRetrain.model_validate(
            {"decision_id": name, "at": end, "ended": "promoted" if better else "rejected"}
        )
        past = past.model_copy(update={"retrains": [*past.retrains, ended]})
        if better:
            told.promoted.append(number)
            model = challenger
    return told


def summarise(told: list[Told], windows: int) -> dict[str, dict[str, float | int | None]]:
    """Figures per kind of stream, as the issue asks for them."""
    found: dict[str, dict[str, float | int | None]] = {}
    for kind in dict.fromkeys(t.kind for t in told):
        of_kind = [t for t in told if t.kind == kind]
        delays = sorted(t.delay for t in of_kind if t.delay is not None)
        found[kind] = {
            "streams": len(of_kind),
            "retrains_per_100_windows": 100 * sum(len(t.retrains) for t in of_kind) / (windows * len(of_kind)),
            "most_retrains_of_a_stream": max(len(t.retrains) for t in of_kind),
            "pages_per_stream": sum(len(t.pages) for t in of_kind) / len(of_kind),
            "missed": sum(t.delay is None for t in of_kind) if kind in TRUE_LOSSES else None,
            "median_delay_windows": delays[len(delays) // 2] if delays and kind in TRUE_LOSSES else None,
            "longest_delay_windows": delays[-1] if delays and kind in TRUE_LOSSES else None,
        }
    return found


def main() -> None:
    """Run every kind with every seed and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    chosen = parser.parse_args()
    turn, policy = turn_for(LOSS), Monitoring()
    say: Callable[[object], None] = lambda text: print(text, flush=True)  # noqa: E731 - one line a stream
    for kind in chosen.kinds:
        told = [replay(kind, seed, policy, turn) for seed in range(chosen.seeds)]
        say(json.dumps({kind: summarise(told, WINDOWS)[kind]}))


if __name__ == "__main__":
    main()
