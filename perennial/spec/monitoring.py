"""How a pipeline is watched and when its model is retrained: the words of `Pipeline(monitoring=...)`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal


@dataclass(frozen=True)
class Window:
    """Which stretch of predictions one monitoring run looks at.

    Args:
        by: `sliding`: the `length` before the run's moment. `fixed`: the last whole `length`, counted from the first
            Monday of 1970, so that two runs within one length watch the same window. `since_promotion`: all since the
            champion began to serve. `rows`: the last `rows` predictions. The last two hold rows however old they are: there
            `length` is how old the newest may be before a person is called.
    """

    by: Literal["sliding", "fixed", "since_promotion", "rows"] = "sliding"
    length: timedelta = timedelta(days=7)
    rows: int = 5_000


@dataclass(frozen=True)
class Monitoring:
    """When a model that serves is to be retrained.

    Args:
        maximum_loss_share: how far the metric may fall behind what was promised at promotion, as a share of the
            promise's distance from a worthless model (ROC AUC 0.5; for losses, of the promise itself).
        maximum_loss: the same in the metric's own unit; the smaller of the two counts. None:
            0.02 where more is better (ROC AUC, F1, ...), for losses none.
        maximum_drifted_share: share of inputs that may drift (by effect size) while too few labels have arrived.
        drift_effect_size: Wasserstein distance in standard deviations, or Jensen-Shannon distance for categories,
            from which an input counts as drifted.
        importance: weight of an input among the drifted. One that is not named weighs what it is worth to the model by its
            card, 1 being the mean.
        minimum_rows: labelled rows below which performance, and rows below which inputs, are not judged.
        sample_rows: rows that Evidently's report looks at, from each of the two windows.
        window: which predictions one run watches, where the run is not told.
        alarms, of_windows: retrain once `alarms` of the last `of_windows` windows of a version raise one, of windows that
            share no rows. A loss that chance explains less than once in a thousand acts at once.
        season: length of a season that comes back (a week, a year): windows are then also held against the one a season
            earlier, and what was so then is no news. None: no season.
        cool_down: least time between two retrains.
        retrains, period: at most so many retrains in any such period.
        breaker: after so many retrains in a row of which none was promoted, none is started until a person has promoted
            a version or `period` has gone by.
        training: which labelled rows a retrain learns from: `expanding` all, `sliding` the last `training_length`,
            `since_change` those since the estimated change.
        training_length: for `sliding`; for `since_change` the least that is learned from.
        reopen_share: a judged window is judged again whenever at least this share of its rows got a label since, and
            `minimum_rows` have one by then. None: never.
    """

    maximum_loss_share: float = 0.10
    maximum_loss: float | None = None
    maximum_drifted_share: float = 0.5
    drift_effect_size: float = 0.1
    importance: Mapping[str, float] = field(default_factory=dict, hash=False)
    minimum_rows: int = 500
    sample_rows: int = 5_000
    window: Window = Window()
    alarms: int = 2
    of_windows: int = 3
    season: timedelta | None = None
    cool_down: timedelta = timedelta(days=1)
    retrains: int = 8
    period: timedelta = timedelta(days=30)
    breaker: int = 3
    training: Literal["expanding", "sliding", "since_change"] = "expanding"
    training_length: timedelta = timedelta(days=90)
    reopen_share: float | None = 0.2

    def mistakes(self) -> list[tuple[str, str]]:
        """What cannot be right, each with the argument that says it."""
        found = [
            (f"{name} is {share:g}; it is a share between 0 and 1.", name)
            for name in ("maximum_loss_share", "maximum_drifted_share")
            if not 0 <= (share := getattr(self, name)) <= 1
        ]
        found += [
            (f"{name} is {count}; it must be at least 1.", name)
            for name in ("minimum_rows", "sample_rows", "retrains", "breaker")
            if (count := getattr(self, name)) < 1
        ]
        lengths = {name: getattr(self, name) for name in ("season", "period", "training_length")}
        found += [
            (f"{name} is {length}; it must be longer than nothing.", name)
            for name, length in {**lengths, "window": self.window.length}.items()
            if length is not None and length <= timedelta(0)
        ]
        if not 1 <= self.alarms <= self.of_windows:
            found.append((f"{self.alarms} of {self.of_windows} windows: alarms must be 1 to of_windows.", "alarms"))
        if self.drift_effect_size <= 0:
            found.append((f"drift_effect_size is {self.drift_effect_size:g}; it must be above 0.", "drift_effect_size"))
        if self.maximum_loss is not None and self.maximum_loss <= 0:
            found.append((f"maximum_loss is {self.maximum_loss:g}; it must be above 0.", "maximum_loss"))
        if any(weight < 0 for weight in self.importance.values()):
            found.append(("importance has a negative weight; 0 leaves an input out of the count.", "importance"))
        if self.window.rows < 1:
            found.append((f"a window of {self.window.rows} rows holds none.", "window"))
        if self.reopen_share is not None and not 0 < self.reopen_share <= 1:
            found.append(
                (f"reopen_share is {self.reopen_share:g}; it is above 0 and at most 1, or None.", "reopen_share")
            )
        return found
