"""Evidence that may be looked at as often as one likes: e-processes, and a band around a distribution for all times.

An e-process is at least 1/alpha at any time, ever, with probability at most alpha while its null hypothesis holds (Ville's
inequality). So an alarm that rings at 1/alpha keeps its level whenever and however often it is asked.
Sources: Howard et al. 2021, arXiv:1810.08240; Waudby-Smith & Ramdas 2023, arXiv:2010.09686; Ramdas et al. 2023,
arXiv:2210.01948.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaln, logsumexp, xlog1py, xlogy

_RATE_PRIOR = (0.5, 50.0)  # Beta: a version's error rate, before anything was seen, is small
_BETS = np.array([0.05, 0.1, 0.2, 0.4, 0.8])


def higher_rate(events: int, trials: int, other_events: int, other_trials: int) -> float:
    """Logarithm of an e-process against *the first arm's rate is at most the other's*, both constant and unknown.

    Universal inference: the likelihood under a mixture of rates for each arm, over the largest that the null allows.
    Source: Wasserman, Ramdas & Balakrishnan 2020, arXiv:1912.11436, section 8.

    Args:
        trials, other_trials: how often each was tried; they may differ, and grow in any order.
    """
    if events * other_trials <= other_events * trials:
        return 0.0  # the null fits best: nothing against it
    mixed = _mixture(events, trials) + _mixture(other_events, other_trials)
    every, happened = trials + other_trials, events + other_events
    rate = happened / every
    return float(mixed - xlogy(happened, rate) - xlog1py(every - happened, -rate))


def mostly(wins: int, pairs: int) -> float:
    """Logarithm of an e-process against *the first of a pair wins with probability at most one half*, whoever went before.

    A uniform mixture over probabilities above one half: Robbins' mixture for the sign test.
    """
    upper = betainc(pairs - wins + 1, wins + 1, 0.5)  # mass of Beta(wins + 1, losses + 1) above one half
    if upper <= 0:
        return -math.inf
    return float((pairs + 1) * math.log(2) + betaln(wins + 1, pairs - wins + 1) + math.log(upper))


def mean_above(differences: NDArray[np.float64], tolerated: float) -> float:
    """Logarithm of an e-process against *the differences' conditional means are at most `tolerated`*.

    A mixture of bets that their mean is higher. Source: Waudby-Smith & Ramdas 2023, section 4.

    Args:
        differences: (n,) in [-1, 1], in the order they became known.
    """
    bets = _BETS[:, None] / (1 + tolerated)
    return float(logsumexp(np.log1p(bets * (differences[None, :] - tolerated)).sum(axis=1)) - math.log(len(_BETS)))


def distribution_radius(count: int, alpha: float) -> float:
    """How far an empirical distribution function may lie from the true one, at all counts together, but for `alpha`.

    Source: Howard & Ramdas 2022, Bernoulli 28(3), arXiv:1906.09712, theorem 2.
    """
    if count == 0:
        return 1.0
    return 0.85 * math.sqrt((math.log(math.log(math.e * count)) + 0.8 * math.log(1612 / alpha)) / count)


def distribution_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Kolmogorov-Smirnov distance of two samples, in [0, 1]; 0 where one is empty."""
    if not len(first) or not len(second):
        return 0.0
    every = np.concatenate([first, second])
    lower = np.searchsorted(np.sort(first), every, side="right") / len(first)
    return float(np.abs(lower - np.searchsorted(np.sort(second), every, side="right") / len(second)).max())


def _mixture(events: int, trials: int) -> float:
    a, b = _RATE_PRIOR
    return float(betaln(a + events, b + trials - events) - betaln(a, b))
