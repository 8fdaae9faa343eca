"""How far two sketches lie apart: Kolmogorov-Smirnov, Wasserstein, PSI, Jensen-Shannon, chi-square as Cramer's V. Pure.

All are effect sizes: they do not grow with the number of rows. Sources: Lin 1991, doi:10.1109/18.61115 (Jensen-Shannon);
Siddiqi 2006, "Credit Risk Scorecards", for PSI on ten bins of equal mass; Cramer 1946, "Mathematical Methods of
Statistics", section 21.9, for the chi-square that size is divided out of.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perennial.rules.sketch import Sketch

SCORED_BINS = 10
JENSEN_SHANNON_BINS = 30
SMALLEST_SHARE = 1e-4  # an empty bin of PSI counts as this
STRANGE = 1e6  # standard deviations: how far a column is from a reference that never moved
Shares = NDArray[np.float64]


class Scores(NamedTuple):
    """Effect sizes between two states of a column, all zero or above; NaN where one of them has no value.

    Args:
        ks: largest distance of the two distribution functions; for categories the total variation distance.
        wasserstein: in standard deviations of the reference; NaN for categories.
        jensen_shannon: the distance (root of the divergence), base e, in [0, 0.833], as Evidently has it.
        chi_square: Cramer's V of the table (state, bin), in [0, 1].
    """

    ks: float
    wasserstein: float
    psi: float
    jensen_shannon: float
    chi_square: float


def compare(current: Sketch, reference: Sketch) -> Scores:
    """The scores of a window's state against the reference's, over the same edges."""
    if not current.rows or not reference.rows:
        return Scores(*[float("nan")] * 5)
    if reference.edges.kind == "category":
        now, then = _shares(current.counts), _shares(reference.counts)
        return Scores(
            float(np.abs(now - then).sum() / 2),
            float("nan"),
            _psi(now, then),
            _jensen_shannon(now, then),
            _cramer(current.counts, reference.counts),
        )
    below = np.cumsum(_shares(current.counts)) - np.cumsum(_shares(reference.counts))
    coarse = _equal_mass(reference, SCORED_BINS)
    fine = _equal_width(reference, JENSEN_SHANNON_BINS)
    grouped = [np.add.reduceat(state.counts, coarse) for state in (current, reference)]
    even = [_shares(np.add.reduceat(state.counts, fine)) for state in (current, reference)]
    return Scores(
        float(np.abs(below).max()),
        _wasserstein(below, current, reference),
        _psi(*map(_shares, grouped)),
        _jensen_shannon(*even),
        _cramer(*grouped),
    )


def _wasserstein(below: Shares, current: Sketch, reference: Sketch) -> float:
    """The area between the two distribution functions, in the reference's standard deviations.

    Between the edges it is summed bin by bin. What lies beyond them is known by its share and by the moments: all of it
    is taken to lie at the mean distance that the moments leave for it, so a far outlier is not lost.
    """
    deviation = reference.deviation
    if deviation <= 0:
        return 0.0 if abs(current.mean - reference.mean) < 1e-12 and current.deviation <= 0 else STRANGE
    edges = reference.edges
    apart = np.abs(below[:-1])  # at the bins' bounds; in between it is taken to go straight
    inside = float(((apart[1:] + apart[:-1]) / 2 * np.diff(edges.bounds)).sum())
    tails = abs(_beyond(current) - _beyond(reference))
    return (inside + tails) / deviation


def _beyond(state: Sketch) -> float:
    """The mean distance by which values lie beyond the edges, from the moments less what the bins account for."""
    if not state.counts[0] and not state.counts[-1]:
        return 0.0
    edges = state.edges
    bounds = edges.bounds
    middles = np.concatenate([[edges.low], (bounds[1:] + bounds[:-1]) / 2, [edges.high]])
    return abs(state.mean - float(_shares(state.counts) @ middles))


def _equal_mass(reference: Sketch, bins: int) -> NDArray[np.int64]:
    """Where bins of about the same share of the reference begin among the slots."""
    cumulated = np.cumsum(_shares(reference.counts))
    cuts = np.searchsorted(cumulated, np.arange(1, bins) / bins) + 1
    return np.unique(np.concatenate([[0], np.minimum(cuts, len(cumulated) - 1)]))


def _equal_width(reference: Sketch, bins: int) -> NDArray[np.int64]:
    held = np.flatnonzero(reference.counts)
    starts = np.linspace(held[0], held[-1] + 1, bins + 1)[:-1].astype(np.int64)
    return np.unique(np.concatenate([[0], starts]))


def _shares(counts: NDArray[np.int64]) -> Shares:
    return np.asarray(counts / max(counts.sum(), 1), dtype=np.float64)


def _psi(now: Shares, then: Shares) -> float:
    now, then = np.maximum(now, SMALLEST_SHARE), np.maximum(then, SMALLEST_SHARE)
    return float(((now - then) * np.log(now / then)).sum())


def _jensen_shannon(now: Shares, then: Shares) -> float:
    middle = (now + then) / 2

    def divergence(shares: Shares) -> float:
        held = shares > 0
        return float((shares[held] * np.log(shares[held] / middle[held])).sum())

    return float(np.sqrt(max((divergence(now) + divergence(then)) / 2, 0.0)))


def _cramer(now: NDArray[np.int64], then: NDArray[np.int64]) -> float:
    # With both states weighed alike: else V would depend on how many rows the window has beside the reference.
    first, second = _shares(now), _shares(then)
    held = first + second > 0
    return float(np.sqrt((((first - second) ** 2)[held] / (first + second)[held]).sum() / 2))
