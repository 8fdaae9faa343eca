"""Broken feeds, told apart from drift: another unit, a stuck value, recoded categories, half of the rows. Pure.

The world drifts by moving and widening; a feed breaks by what the world does not do. Each finding is one sentence.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perennial.rules.evidence import BROKEN_MISSING_RISE
from perennial.rules.past import PastWindow, apart
from perennial.rules.tabular import InputKind

SMALLEST_SAMPLE = 200
DAY = timedelta(days=1)
STUCK_SHARE, USUAL_SHARE = 0.98, 0.6  # of one value: now, and at most in the reference
ALWAYS_THERE = 0.05  # of values missing in the reference, at most
RECODED_SHARE = 0.5  # of rows with values the reference never held
FEW_ROWS_SHARE, COMPARABLE_WINDOWS = 0.6, 8
WILD_FACTOR = 8.0  # no world grows so much from one window to the next and keeps its shape
CONVERSIONS = (
    1.609344,
    1.852,
    1.943844,
    2.204623,
    2.236936,
    2.54,
    3.28084,
    3.6,
    3.785412,
    4.184,
    4.54609,
    6.894757,
    7.0,
)
"""Smaller factors count where they are those of units: miles, knots, pounds, inches, feet, gallons, calories, weeks."""
LEAP, KNOWN_LEAP = 12.0, 3.0  # deviations that no season moves a feed by; enough where the change is one of UNITS
NEAR, CLOSER = 0.25, 12.0  # deviations left once the unit is undone, and how many times fewer than before
SHAPE_TOLERANCE = 0.05  # largest distance of the distribution functions once the unit is undone
OFFSET_TOLERANCE = 0.05  # of the reference's deviation
WIDTH_TOLERANCE = 0.2  # of the logarithm of the deviations' ratio: heavy tails make it vary
CENTRED = 1.25  # a mean of fewer deviations than this says nothing of a factor: of an exponential law it is 1
UNITS: Mapping[str, tuple[float, float]] = {  # new = factor * old + offset
    "Celsius to Fahrenheit": (1.8, 32.0),
    "Fahrenheit to Celsius": (1 / 1.8, -32 / 1.8),
    "Celsius to Kelvin": (1.0, 273.15),
    "Kelvin to Celsius": (1.0, -273.15),
}


def find_broken(current: pl.DataFrame, reference: pl.DataFrame, inputs: Mapping[str, InputKind]) -> dict[str, str]:
    """What looks broken about each input's feed, in words.

    Args:
        current: a sample of the window, in the order of event time: a feed that broke half way shows in its later half.
        reference: a sample of the reference.
    """
    found = {}
    for name, kind in inputs.items():
        if lost := _lost_lately(current[name], reference[name]):
            found[name] = lost
            continue
        then = reference[name].drop_nulls()
        for rows in (current, current.slice(current.height // 2)):
            now = rows[name].drop_nulls()
            if len(now) < SMALLEST_SAMPLE or len(then) < SMALLEST_SAMPLE:
                continue
            trouble = _stuck(now, then) or (_another_unit(now, then) if kind == "number" else _recoded(now, then))
            if trouble:
                found[name] = trouble
                break
    return found


def rows_before(windows: Sequence[PastWindow], start: datetime, end: datetime) -> list[int]:
    """Rows asked for in the windows before [start, end) that share none with it, as if each were as long; oldest first.

    Of windows shorter than a day each day's quietest counts, or every nightfall would look like a broken feed.
    """
    found: dict[timedelta, int] = {}
    for window in apart(windows, start, end):
        asked = window.evidence.asked_rows
        if asked is None:
            continue
        rows = round(asked * ((end - start) / (window.end - window.start)))
        ago = end - window.end
        place = ago if end - start >= DAY else ago // DAY * DAY
        found[place] = min(rows, found.get(place, rows))
    return [found[place] for place in sorted(found, reverse=True)]


def find_few_rows(rows: int, earlier: Sequence[int]) -> str | None:
    """Whether a window has far fewer rows than any of the comparable ones before it (at least three), in words."""
    comparable = [count for count in earlier[-COMPARABLE_WINDOWS:] if count]
    if len(comparable) < 3 or rows >= FEW_ROWS_SHARE * min(comparable):
        return None
    usual = sorted(comparable)[len(comparable) // 2]
    return f"{rows:,} rows where the {len(comparable)} windows before had {min(comparable):,} at least, {usual:,} as a rule"


def _lost_lately(now: pl.Series, then: pl.Series) -> str | None:
    """Whether values went missing in the newest part of the window only; what the whole of it lacks is judged on all rows.

    A tenth is enough where the reference always had values and the tenth has none: such a feed knows no night either.
    """
    usual = _missing_share(then)
    if _missing_share(now) - usual > BROKEN_MISSING_RISE:
        return None
    half, tenth = (now.tail(len(now) // parts) for parts in (2, 10))
    if len(half) >= SMALLEST_SAMPLE and (share := _missing_share(half)) - usual > BROKEN_MISSING_RISE:
        return f"lost: {share:.0%} of its values are missing in the later half of the window"
    if len(tenth) >= SMALLEST_SAMPLE and usual <= ALWAYS_THERE and _missing_share(tenth) >= STUCK_SHARE:
        return f"lost: {_missing_share(tenth):.0%} of its values are missing in the newest tenth of the window"
    return None


def _missing_share(values: pl.Series) -> float:
    gone = values.is_null() | values.is_nan().fill_null(False) if values.dtype.is_float() else values.is_null()
    return float(gone.sum()) / max(len(values), 1)


def _stuck(now: pl.Series, then: pl.Series) -> str | None:
    value, share = _commonest(now)
    if share < STUCK_SHARE or _commonest(then)[1] > USUAL_SHARE:
        return None
    return f"stuck: {share:.0%} of its values are {value!s:.40}"


def _commonest(values: pl.Series) -> tuple[object, float]:
    counted = values.value_counts(sort=True)
    return counted.item(0, 0), counted.item(0, 1) / len(values)


def _recoded(now: pl.Series, then: pl.Series) -> str | None:
    known = then.cast(pl.String).unique()
    share = 1 - now.cast(pl.String).is_in(known.implode()).mean()  # type: ignore[operator]  # a mean of booleans
    if share < RECODED_SHARE or len(known) > len(then) / 3:  # names that are nearly all new are no code
        return None
    example = now.cast(pl.String).filter(~now.cast(pl.String).is_in(known.implode()))[0]
    return f"recoded: {share:.0%} of its values were never seen before, such as {example!s:.40}"


def _another_unit(now: pl.Series, then: pl.Series) -> str | None:
    new, old = (_numbers(values) for values in (now, then))
    spread, deviation = new.std(), old.std()
    if deviation <= 0 or spread <= 0 or len(new) < SMALLEST_SAMPLE:
        return None
    for name, (factor, offset) in UNITS.items():
        if _undone((new - offset) / factor, new, old, KNOWN_LEAP):
            return f"another unit: as if from {name}"
    factor = _factor(new, old)
    if not (_is_unit(factor, new, old) and _same_but_for(factor, new, old)):
        return None
    return f"another unit: its values are {factor:.4g} times the reference's, in the same shape"


def _factor(new: NDArray[np.float64], old: NDArray[np.float64]) -> float:
    """The factor between quantiles, by least squares through zero on logarithms of their size."""
    places = np.linspace(0.02, 0.98, 49)
    now, then = np.quantile(new, places), np.quantile(old, places)
    usable = (np.abs(then) > 1e-9 * np.abs(then).max()) & (np.sign(now) == np.sign(then)) & (now != 0)
    if not usable.any():
        return 1.0
    return float(np.exp(np.median(np.log(np.abs(now[usable] / then[usable])))))


def _is_unit(factor: float, new: NDArray[np.float64], old: NDArray[np.float64]) -> bool:
    """Whether a factor may be another unit's. The world, too, multiplies: delays halve, shares of something double."""
    size = math.exp(abs(math.log(factor)))
    if size >= WILD_FACTOR:
        return True
    if abs(old.mean()) < CENTRED * old.std():
        return False  # values about zero, or trailing off from it: a wider world looks the same as another unit
    if min(new.min(), old.min()) >= 0 and max(new.max(), old.max()) <= 1:
        return False  # shares before and after: another unit of a share are percent
    # The means tell a factor best; what chance leaves open of it goes with the spread.
    size = math.exp(abs(math.log(abs(new.mean() / old.mean()))))
    chance = 3 * old.std() / abs(old.mean()) * math.sqrt(1 / len(new) + 1 / len(old))
    return any(abs(math.log(size / known)) < max(chance, 0.005) for known in CONVERSIONS)


def _same_but_for(factor: float, new: NDArray[np.float64], old: NDArray[np.float64]) -> bool:
    """Whether only a factor lies between two samples. Zeros are zero in every unit: it is the others that have to agree."""
    now, then = new[new != 0], old[old != 0]
    if len(now) < SMALLEST_SAMPLE or len(then) < SMALLEST_SAMPLE:
        return False
    zeros = abs(len(now) / len(new) - len(then) / len(old))
    return zeros <= SHAPE_TOLERANCE and _undone(now / factor, now, then, LEAP)


def _undone(back: NDArray[np.float64], now: NDArray[np.float64], then: NDArray[np.float64], leap: float) -> bool:
    """Whether values are where they were once the unit is undone, or all but there after a leap that no world makes."""
    if _same_shape(now, then):
        return False
    if _same_shape(back, then):
        return True
    leapt = _distance(now, then) / max(min(now.std(), then.std()), 1e-300)
    rest = _distance(back, then) / then.std()
    return bool(leapt >= leap and rest <= NEAR and rest <= leapt / CLOSER)


def _distance(now: NDArray[np.float64], then: NDArray[np.float64]) -> float:
    """Wasserstein's distance, by 200 quantiles."""
    places = (np.arange(200) + 0.5) / 200
    return float(np.abs(np.quantile(now, places) - np.quantile(then, places)).mean())


def _same_shape(now: NDArray[np.float64], then: NDArray[np.float64]) -> bool:
    """Whether two samples have one distribution, but for sampling: by mean, deviation and Kolmogorov-Smirnov distance."""
    chance = 1.63 * math.sqrt(1 / len(now) + 1 / len(then))  # Kolmogorov's bound at one chance in a hundred
    spread = then.std()
    moved, widened = abs(now.mean() - then.mean()) / spread, abs(math.log(max(now.std(), 1e-300) / spread))
    if moved > OFFSET_TOLERANCE + chance or widened > WIDTH_TOLERANCE + chance:
        return False  # by far the most common answer, and the cheapest
    both = np.sort(np.concatenate([now, then]))
    apart = np.searchsorted(np.sort(now), both, "right") / len(now) - np.searchsorted(
        np.sort(then), both, "right"
    ) / len(then)
    return bool(np.abs(apart).max() <= max(SHAPE_TOLERANCE, chance))


def _numbers(values: pl.Series) -> NDArray[np.float64]:
    numbers = values.cast(pl.Float64).to_numpy()
    return np.asarray(numbers[np.isfinite(numbers)], dtype=np.float64)
