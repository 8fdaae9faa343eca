"""How a promoted version takes over from the champion, as a pipeline declares it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rollout:
    """How a promoted version takes over from the champion, step by step: replay, shadow, canary, all.

    Each step ends after `requests` of the challenger or after `seconds`, whichever comes first, and goes on unless an alarm
    rang. The alarms hold at every look and together: of roll-outs of a version no worse than the champion, at most
    `false_alarm_share` are rolled back. Nothing is tried where there is nothing to compare with: no champion, other feature
    code, or a champion that nobody asked for `seconds`; the roll-out's decision then says so.

    Args:
        replay_rows: logged requests that the challenger scores before it meets a live one; 0: none.
        shadow: whether it then scores live requests unheard.
        canary: shares of the requests that it then answers, growing, each in (0, 1).
        requests: after so many requests of the challenger a step ends.
        seconds: after so long a step ends with what it saw.
        without_traffic: what happens where a live step saw no request at all.
        maximum_slowdown: times as long as the champion's a request may take, in the median and in the slowest twentieth.
        maximum_score_shift: Kolmogorov-Smirnov distance that its scores may have from the champion's, in [0, 1].
        maximum_loss_gain: how much its loss on labelled requests may exceed the champion's: Brier score, or absolute error
            as a share of the two errors' sum.
        false_alarm_share: of all alarms together.
    """

    replay_rows: int = 2_000
    shadow: bool = True
    canary: Sequence[float] = (0.05, 0.25, 0.5)
    requests: int = 1_000
    seconds: float = 60.0
    without_traffic: Literal["go_on", "roll_back"] = "go_on"
    maximum_slowdown: float = 1.5
    maximum_score_shift: float = 0.5
    maximum_loss_gain: float = 0.05
    false_alarm_share: float = 0.05

    def mistakes(self) -> Iterator[tuple[str, str]]:
        """What cannot be right, as (message, the word to look for in the file)."""
        shares = list(self.canary)
        if any(not 0 < share < 1 for share in shares) or shares != sorted(set(shares)):
            yield f"canary={shares} must be shares between 0 and 1 that grow, such as (0.05, 0.25, 0.5).", "canary"
        for name, low, high in (
            ("replay_rows", 0, math.inf),
            ("requests", 1, math.inf),
            ("seconds", 0, math.inf),
            ("maximum_slowdown", 1, math.inf),
            ("maximum_score_shift", 0, 1),
            ("maximum_loss_gain", 0, 1),
            ("false_alarm_share", 1e-6, 0.5),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                yield f"{name}={value} must be from {low:g}" + (f" to {high:g}." if high < math.inf else " up."), name
        if self.without_traffic not in ("go_on", "roll_back"):
            yield f"without_traffic={self.without_traffic!r} must be 'go_on' or 'roll_back'.", "without_traffic"
