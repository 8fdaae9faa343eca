"""The picture of the loop: a metric by month, the model that was kept true beside the one that was left alone."""

import io
from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg  # of its own: pyplot would keep state for the process
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from perennial.rules.drift import say_metric
from perennial.rules.performance import Month, Performance

KEPT, LEFT, INK, QUIET = "#0b7a5b", "#a3433b", "#22272e", "#6b7280"


def draw_months(performance: Performance, first_answers: Sequence[tuple[int, datetime]]) -> bytes:
    """A PNG, 1,440 by 840 pixels.

    Args:
        first_answers: versions and the event time of the first row each of them answered, in that order.
    """
    figure = Figure(figsize=(9, 5.25), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.075, 0.1, 0.895, 0.63))
    months = [month for month in performance.months if month.gain is not None]
    _draw_lines(axes, months, performance)
    _mark_promotions(axes, months, performance, first_answers)
    _dress(axes, months, performance)
    headline, detail = describe(performance)
    figure.text(0.018, 0.975, headline, fontsize=14.5, fontweight="bold", color=INK, va="top")
    figure.text(0.018, 0.917, detail, fontsize=10, color=QUIET, va="top", linespacing=1.4)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def describe(performance: Performance) -> tuple[str, str]:
    """What is seen, in a headline and a line below it."""
    metric, after = say_metric(performance.metric), performance.after_first_promotion
    if after is None:
        return (
            f"{performance.pipeline}: version {performance.baseline_version} served throughout",
            f"{metric} by month; no other version has answered a row yet, so there is nothing to gain or lose.",
        )
    better = "ahead of" if after.gain > 0 else "behind"
    headline = f"{performance.pipeline}: the model Perennial kept is {better} the one never retrained"
    return headline, (
        f"Mean monthly {metric} {after.served:.3f} against {after.baseline:.3f}, over {_count(len(after.months))} from the "
        f"first promotion on.\nGain {after.gain:+.3f}, 95% interval {after.low:+.3f} to {after.high:+.3f}, paired by row."
    )


def _draw_lines(axes: Axes, months: Sequence[Month], performance: Performance) -> None:
    positions = range(len(months))
    style = {"linewidth": 2.2, "markersize": 6.5, "markeredgecolor": "white", "markeredgewidth": 1.2}
    left = f"never retrained (version {performance.baseline_version})"
    axes.plot(positions, [m.baseline for m in months], marker="o", color=LEFT, label=left, **style)  # type: ignore[arg-type]  # no month without a value is here
    axes.plot(positions, [m.served for m in months], marker="o", color=KEPT, label="kept by Perennial", **style)  # type: ignore[arg-type]  # likewise


def _dress(axes: Axes, months: Sequence[Month], performance: Performance) -> None:
    axes.set_xlim(-0.55, max(len(months) - 0.45, 0.55))
    axes.set_xticks(range(len(months)), _names(months))
    axes.margins(y=0.18)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_ylabel(say_metric(performance.metric), color=QUIET, fontsize=10)
    axes.tick_params(colors=QUIET, labelsize=10, length=0, pad=6)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color("#9ca3af")
    axes.plot([], [], color="#9ca3af", linewidth=1, linestyle=(0, (3, 3)), label="a version is promoted")
    legend = {"frameon": False, "fontsize": 10, "labelcolor": INK, "borderaxespad": 0}
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.08), ncols=3, **legend)


def _mark_promotions(
    axes: Axes, months: Sequence[Month], performance: Performance, first_answers: Sequence[tuple[int, datetime]]
) -> None:
    zone, names = ZoneInfo(performance.time_zone), [month.month for month in months]
    for version, first in first_answers[1:]:
        local = first.astimezone(zone)
        if f"{local:%Y-%m}" not in names:
            continue
        position = names.index(f"{local:%Y-%m}") - 0.5 + (local.day - 1) / 31
        axes.axvline(position, color="#9ca3af", linewidth=1, linestyle=(0, (3, 3)), zorder=0)
        above = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        axes.annotate(f"v{version}", (position, 1), (0, 3), fontsize=9, color=QUIET, **above)  # type: ignore[arg-type]  # keywords of one call


def _names(months: Sequence[Month]) -> list[str]:
    """Month names, with the year where it begins."""
    starts = [datetime.fromisoformat(f"{month.month}-01") for month in months]
    return [
        f"{at:%b\n%Y}" if number == 0 or at.year != starts[number - 1].year else f"{at:%b}"
        for number, at in enumerate(starts)
    ]


def _count(months: int) -> str:
    return "one month" if months == 1 else f"{months} months"
