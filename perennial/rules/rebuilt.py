"""What a version that was trained again has in common with the first time, and what not. Pure."""

import difflib
import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

METRIC_TOLERANCE = 1e-9
MOST_LINES = 200


class Difference(BaseModel, frozen=True):
    """One thing that is not as it was. `then`, `now`: in words; None where it was not there."""

    what: str
    then: str | None
    now: str | None


class Rebuilt(BaseModel, frozen=True):
    """How a rebuild came out.

    Args:
        differences: what its outcome may depend on and has changed since: packages, code, parameters, machine.
        outcome: what came out otherwise: rows, metrics, weights.
    """

    verdict: Literal["reproduced", "differs", "rows_gone"]
    reason: str
    differences: list[Difference] = []
    outcome: list[Difference] = []


def judge_rebuild(differences: list[Difference], outcome: list[Difference]) -> Rebuilt:
    """The verdict on a version that was trained again."""
    if not outcome:
        known = f", although {_names(differences)} changed since" if differences else ""
        return Rebuilt(
            verdict="reproduced",
            reason=f"the same rows, metrics and weights, bit for bit{known}",
            differences=differences,
        )
    cause = (
        f"{_names(differences)} changed since"
        if differences
        else "nothing that is recorded has changed: the training itself does not repeat"
    )
    reason = f"{_names(outcome)} came out otherwise; {cause}"
    return Rebuilt(verdict="differs", reason=reason, differences=differences, outcome=outcome)


def diff_values(what: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """The entries that were added, dropped or changed."""
    return [
        Difference(what=f"{what} {name}", then=_say(then.get(name)), now=_say(now.get(name)))
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]


def diff_metrics(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Metrics whose value or interval is not the same within 1e-9."""
    found = []
    for name in sorted(n for n in {*then, *now} if isinstance(then.get(n) or now.get(n), Mapping)):
        before, after = then.get(name), now.get(name)
        if before is None or after is None:  # that were not told then, or are no longer
            continue
        if any(not _close(before.get(each), after.get(each)) for each in ("value", "low", "high")):
            found.append(
                Difference(what=f"metric {name}", then=_say(before.get("value")), now=_say(after.get("value")))
            )
    return found


def diff_text(then: str, now: str) -> str:
    """The lines that changed, as a unified diff of at most 200 lines."""
    lines = list(difflib.unified_diff(then.splitlines(), now.splitlines(), "then", "now", lineterm="", n=1))
    rest = [f"... and {len(lines) - MOST_LINES} lines more"] if len(lines) > MOST_LINES else []
    return "\n".join([*lines[:MOST_LINES], *rest])


def _close(then: float | None, now: float | None) -> bool:
    if then is None or now is None:
        return then is now
    return math.isclose(then, now, rel_tol=METRIC_TOLERANCE, abs_tol=METRIC_TOLERANCE)


def _names(differences: list[Difference]) -> str:
    names = [each.what for each in differences]
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + rest


def _say(value: object) -> str | None:
    return None if value is None else str(value)
