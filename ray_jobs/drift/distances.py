"""What the sketches of a window say of each column against the reference's: drift, missing, unseen, out of range."""

import math
from collections.abc import Mapping

import numpy as np
import polars as pl

from perennial.rules.drift import drift_bound
from perennial.rules.sketch import Edges, Sketch, sketch_frame
from perennial.rules.sketch_scores import Scores, compare
from perennial.rules.tabular import InputKind
from perennial.spec import Monitoring
from ray_jobs.drift.states import SCORE

RANGE_SLACK = 0.01  # of the occupied bins: a sample's extremes are not the range


def column_evidence(
    sketches: Mapping[str, Sketch],
    reference: pl.DataFrame,
    edges: Mapping[str, Edges],
    inputs: Mapping[str, InputKind],
    policy: Monitoring,
) -> dict[str, object]:
    """Fields of the evidence that come from all rows: effect sizes with their bounds, and the quality of each input."""
    then = sketch_frame(reference, edges)
    drift: dict[str, float] = {}
    bounds: dict[str, float] = {}
    scores: dict[str, dict[str, float]] = {}
    for name in inputs:
        if name not in sketches or not sketches[name].rows or not then[name].rows:
            continue
        found = compare(sketches[name], then[name])
        values = int((sketches[name].counts + then[name].counts > 0).sum())
        drift[name] = effect_size(found, inputs[name])
        rows = (sketches[name].rows, then[name].rows)
        bounds[name] = drift_bound(inputs[name], policy, *rows, values, len(inputs))
        scores[name] = {k: round(v, 6) for k, v in found._asdict().items() if math.isfinite(v)}
    any_rows = any(state.rows + state.missing for state in sketches.values())
    score = sketches.get(SCORE)
    return {
        "drift": drift,
        "drift_bounds": bounds,
        "scores": scores,
        "missing": {n: sketches[n].missing_share - then[n].missing_share for n in inputs} if any_rows else {},
        "unseen": {n: _unseen(sketches[n]) for n, kind in inputs.items() if kind == "category" and sketches[n].rows},
        "outside": {n: _outside(sketches[n], then[n]) for n, k in inputs.items() if k == "number" and sketches[n].rows},
        "score_drift": compare(score, then[SCORE]).wasserstein if score and score.rows and SCORE in then else None,
    }


def seasonal_drift(
    now: Mapping[str, Sketch], before: Mapping[str, Sketch], inputs: Mapping[str, InputKind]
) -> dict[str, float]:
    """Effect sizes of a window against the one a season earlier; both with the same edges."""
    usable = [n for n in inputs if n in now and n in before and now[n].rows and before[n].rows]
    return {name: effect_size(compare(now[name], before[name]), inputs[name]) for name in usable}


def effect_size(scores: Scores, kind: InputKind) -> float:
    """The score that drift is judged by."""
    return scores.wasserstein if kind == "number" else scores.jensen_shannon


def _unseen(state: Sketch) -> float:
    return float(state.counts[-1] / max(state.rows, 1))


def _outside(state: Sketch, reference: Sketch) -> float:
    held = np.flatnonzero(reference.counts)
    if not len(held):
        return 0.0
    slack = math.ceil(RANGE_SLACK * (held[-1] - held[0]))
    inside = state.counts[max(held[0] - slack, 0) : held[-1] + slack + 1].sum()
    return float(1 - inside / max(state.rows, 1))
