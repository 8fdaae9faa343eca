"""The parts of a model card that say what a version is worth, each with a caption that names the row, decision or snapshot its numbers come from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perennial.datadocs.charts import Axis, Line, column_chart, legend, line_chart, ranked_bars
from perennial.datadocs.sections import table_head
from perennial.datadocs.text import NONE, number, text, title, when
from perennial.rules.curves import Curve

if TYPE_CHECKING:
    from perennial.datadocs.card import Card

SHOWN_INPUTS = 30
ZERO_TO_ONE = (0.0, 1.0)


def figure(value: float | None, source: str, digits: int = 4) -> str:
    """A number that says where it is from when it is pointed at."""
    shown = NONE if value is None else f"{value:,.{digits}f}"
    return f'<data title="{title(source, 400)}">{shown}</data>'


def count(value: int, source: str) -> str:
    """A count that says where it is from."""
    return f'<data title="{title(source, 400)}">{number(value)}</data>'


def summary(card: "Card") -> str:
    """The version in a few figures, and the last verdict on it."""
    version, judged, row = card.version, card.promotion, card.row
    main = card.metrics.get(card.figures.metric, {})
    stage = card.history[-1].stage if card.history else "registered"
    tiles = [
        (card.figures.metric.replace("_", " "), figure(main.get("value"), f"{row}: metrics"), _between(main)),
        ("a constant reaches", figure(main.get("constant"), f"{row}: metrics"), "on the same rows"),
        ("training rows", count(version.training_rows, f"{row}: training_rows"), span(card)),
        ("holdout rows", count(version.holdout_rows, f"{row}: holdout_rows"), f"to {when(version.holdout_end)}"),
        ("stage", text(stage), f"since {when(card.history[-1].as_of)}" if card.history else "no step yet"),
    ]
    shown = "".join(
        f"<div><dt>{text(name)}</dt><dd>{value}<small>{note}</small></dd></div>" for name, value, note in tiles
    )
    state = {"promote": "ok", "reject": "bad"}.get(judged.verdict, "") if judged else ""
    verdict = (
        f'<p><span class="badge {state}">{text(judged.verdict)}</span> {text(judged.reason, 500)} '
        f"<small>decision <code>{text(judged.decision_id)}</code></small></p>"
        if judged
        else '<p><span class="badge">not judged yet</span></p>'
    )
    return (
        f'<section class="newest {state}">{verdict}<p class="note">Trained because: {text(version.reason, 500)}</p>'
        f'<dl class="tiles">{shown}</dl></section>'
    )


def metrics(card: "Card") -> str:
    """Every metric on the holdout rows, with its interval and what a constant reaches."""
    rows = "".join(
        f'<tr><th scope="row">{text(name)}</th>'
        + "".join(
            f'<td class="n" data-label="{each}">{figure(found.get(each), f"{card.row}: metrics.{name}.{each}")}</td>'
            for each in ("value", "low", "high", "constant")
        )
        + "</tr>"
        for name, found in card.metrics.items()
    )
    head = table_head("metric", "#value", "#95% from", "#to", "#a constant")
    told = card.version.read_metrics()
    at = (
        f" Decided at a threshold of {told['threshold']:.4f}."
        if card.figures.task == "binary" and "threshold" in told
        else ""
    )
    return section(
        "metrics", "Metrics on the holdout", f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>",
        f"{card.row}, column metrics; 95% bootstrap intervals.{at}",
    )  # fmt: skip


def curves(card: "Card") -> str:
    """ROC and precision-recall curves, or residuals."""
    found = card.figures
    if found.residuals:
        rows = [float(each.rows) for each in found.residuals]
        said = [f"{each.low:.4g} to {each.high:.4g}: {each.rows:,} rows" for each in found.residuals]
        axis = Axis("label minus prediction", found.residuals[0].low, found.residuals[-1].high)
        plot = column_chart(rows, axis, Axis.over("rows", rows, True), label="Residuals", titles=said)
        return section("curves", "Residuals", charts([("Residuals", plot)]), drawn_from(card))
    pair = [("ROC curve", found.roc, "false positive share", "true positive share", True),
            ("Precision and recall", found.pr, "recall", "precision", False)]  # fmt: skip
    plots = [
        (name, line_chart(_lines(drawn), Axis(x, *ZERO_TO_ONE), Axis(y, *ZERO_TO_ONE), label=name, diagonal=diagonal))
        for name, drawn, x, y, diagonal in pair
        if drawn
    ]
    names = [each.name for each in found.roc if each.name]
    body = (legend(names) if names else "") + charts(plots)
    return section("curves", "ROC and precision", body, drawn_from(card))


def calibration(card: "Card") -> str:
    """Whether what is told comes true: by bins of probability, or by tenths of the predicted values."""
    bins, classes = card.figures.calibration, card.figures.task != "regression"
    told, seen = [each.told or 0.0 for each in bins], [each.found or 0.0 for each in bins]
    both = Axis.over("", [*told, *seen])
    span = ZERO_TO_ONE if classes else (both.low, both.high)
    x, y = ("mean probability told", "share that came true") if classes else ("mean prediction", "mean label")
    lines = [Line(told, seen), Line(told, seen, dots=True)]
    plot = line_chart(lines, Axis(x, *span), Axis(y, *span), label="Calibration", diagonal=True)
    rows = "".join(
        f"<tr><th scope='row'>{each.low:.4g} to {each.high:.4g}</th>"
        f'<td class="n" data-label="rows">{count(each.rows, card.figures.source)}</td>'
        f'<td class="n" data-label="told">{figure(each.told, card.figures.source)}</td>'
        f'<td class="n" data-label="came">{figure(each.found, card.figures.source)}</td></tr>'
        for each in bins
    )
    head = table_head("bin", "#rows", f"#{x}", f"#{y}")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return section("calibration", "Calibration", f"{charts([('', plot)], table)}", drawn_from(card))


def slices(card: "Card") -> str:
    """The metric on the values of the declared columns, and what the last verdict found there."""
    found = card.figures.slices
    if not found:
        return section("slices", "Slices", "<p>No slices are declared, or none has enough rows.</p>", drawn_from(card))
    source = card.figures.source
    rows = "".join(
        f'<tr><th scope="row"><b>{text(each.column)}</b> = {text(each.value, 60)}</th>'
        f'<td class="n" data-label="rows">{count(each.rows, source)}</td>'
        + "".join(
            f'<td class="n" data-label="{name}">{figure(value, source)}</td>'
            for name, value in (("value", each.metric), ("low", each.low), ("high", each.high))
        )
        + "</tr>"
        for each in found
    )
    head = table_head("slice", "#rows", f"#{card.figures.metric}", "#95% from", "#to")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return section("slices", "Slices", table, drawn_from(card))


def inputs(card: "Card") -> str:
    """What each input is worth to the model."""
    found = card.figures.importance[:SHOWN_INPUTS]
    shown = [f"{each.loss:+.4f}" for each in found]
    plot = ranked_bars(
        [each.input for each in found], [each.loss for each in found], shown, label="Permutation importance"
    )
    note = (
        f"Loss of {text(card.figures.metric)} when an input's values are shuffled, mean of three shuffles, on "
        f"{card.figures.importance_rows:,} of the {drawn_from(card)} Source: Breiman 2001."
    )
    return section("inputs", "Inputs by permutation importance", charts([("", plot)]), note)


def section(key: str, name: str, body: str, note: str) -> str:
    """A section with a caption: where its numbers are from."""
    return f'<section id="{key}"><h2>{name}</h2>{body}<p class="note">{note}</p></section>'


def charts(plots: Sequence[tuple[str, str]], beside: str = "") -> str:
    """Charts with their names, side by side where there is room."""
    drawn = "".join(f"<figure><figcaption><b>{name}</b></figcaption>{plot}</figure>" for name, plot in plots)
    return f'<div class="charts">{drawn}{f"<div>{beside}</div>" if beside else ""}</div>'


def _lines(drawn: Sequence[Curve]) -> list[Line]:
    return [Line(each.x, each.y, at) for at, each in enumerate(drawn)]


def _between(found: dict[str, float | None]) -> str:
    low, high = found.get("low"), found.get("high")
    return NONE if low is None or high is None else f"95% from {low:.4f} to {high:.4f}"


def span(card: "Card") -> str:
    """The window of event time it learned from."""
    return f"{when(card.version.train_start)} to {when(card.version.holdout_start)}"


def drawn_from(card: "Card") -> str:
    """The caption of what was worked out from the holdout rows."""
    return f"holdout: {text(card.figures.source, 400)}."
