"""The parts of a model card that say how a version came to be and what became of it, each with its source."""

import json
from typing import TYPE_CHECKING

from perennial.datadocs.card_sections import charts, section, span
from perennial.datadocs.charts import Axis, Line, column_chart, legend, line_chart
from perennial.datadocs.sections import table_head
from perennial.datadocs.text import NONE, text, title, when

if TYPE_CHECKING:
    from perennial.datadocs.card import Card

PARTS = ("training", "holdout")


def training(card: "Card") -> str:
    """The losses after every epoch."""
    curve = card.curve
    if not curve:
        return section("training", "Training curve", "<p>This version kept none.</p>", card.row)
    epochs = [each["epoch"] for each in curve]
    names = [name for name in ("training_loss", "validation_loss") if name in curve[0]]
    lines = [Line(epochs, [each[name] for each in curve], at) for at, name in enumerate(names)]
    dots = [line._replace(dots=True) for line in lines]
    values = [value for line in lines for value in line.y]
    plot = line_chart(
        [*lines, *dots],
        Axis("epoch", 0.0, max(epochs)),
        Axis.over("loss", values),
        label="Training and validation loss",
    )
    kept = card.version.read_metrics().get("kept_epoch")
    body = legend([name.replace("_", " ") for name in names]) + charts([("", plot)])
    return section("training", "Training curve", body, f"{card.row}, column metrics.curve; kept: epoch {kept}.")


def window(card: "Card") -> str:
    """Labelled rows over event time, what was trained on and what was kept from it, and their mean label."""
    spans = card.figures.periods
    if not spans:
        return section("window", "Data window", "<p>No labelled rows.</p>", card.row)
    rows = [float(each.rows) for each in spans]
    said = [f"{each.start[:10]}, {each.part}: {each.rows:,} rows" for each in spans]
    parts = [PARTS.index(each.part) if each.part in PARTS else 0 for each in spans]
    dates = tuple(spans[min(len(spans) - 1, at * len(spans) // 4)].start[:10] for at in range(5))
    order = Axis("event time", 0.0, float(len(spans)), dates)
    plots = [("Labelled rows", column_chart(rows, order, Axis.over("rows", rows, True), label="Labelled rows", titles=said, colours=parts))]  # fmt: skip
    means = [(at + 0.5, each.label_mean) for at, each in enumerate(spans) if each.label_mean is not None]
    if means and card.figures.task != "multiclass":  # positions of classes have no mean
        x, y = [at for at, _ in means], [mean for _, mean in means]
        plots.append(("Mean label", line_chart([Line(x, y), Line(x, y, dots=True)], order, Axis.over("mean label", y), label="Mean label")))  # fmt: skip
    note = f"Labels known by {when(card.version.as_of)}; {card.figures.table}, snapshot {card.figures.snapshot_id}."
    return section("window", "Data window", legend(PARTS) + charts(plots), f"{span(card)} to train. {note}")


def history(card: "Card") -> str:
    """What became of the version, and what was decided of it."""
    steps = "".join(
        f'<tr><th scope="row">{text(step.stage)}</th><td data-label="as of">{when(step.as_of)}</td>'
        f'<td data-label="recorded">{when(step.recorded_at)}</td><td class="n" data-label="generation">{step.generation}</td>'
        f"<td>{text(step.reason, 300)}</td><td><code>{text(step.decision_id)}</code></td></tr>"
        for step in card.history
    )
    decisions = "".join(
        f'<tr><th scope="row">{text(each.kind)}: {text(each.verdict)}</th><td data-label="as of">{when(each.as_of)}</td>'
        f"<td>{text(each.reason, 400)}</td><td>{_run(card, each.run_id)}</td><td><code>{text(each.decision_id)}</code></td></tr>"
        for each in card.judged
    )
    first = table_head("stage", "as of", "recorded", "#generation", "because", "decision")
    second = table_head("decision", "as of", "because", "flow run", "id")
    body = (
        f"<table><thead><tr>{first}</tr></thead><tbody>{steps}</tbody></table><h3>Decisions</h3>"
        f"<table><thead><tr>{second}</tr></thead><tbody>{decisions}</tbody></table>"
    )
    return section("history", "Stages and decisions", body, f"{card.stages} and {card.decisions}, by version.")


def origin(card: "Card") -> str:
    """All that it takes to make the version again."""
    version = card.version
    hidden = {"metrics", "params", "raw_snapshot_ids", "contract_hash"}
    facts = {name: value for name, value in version.model_dump(mode="json").items() if name not in hidden}
    facts |= {f"parameter {name}": value for name, value in json.loads(version.params).items()}
    facts |= {f"contract of {name}": value for name, value in json.loads(version.contract_hash or "{}").items()}
    rows = "".join(
        f'<tr><th scope="row">{text(name)}</th><td><code>{text(value)}</code></td></tr>'
        for name, value in facts.items()
    )
    again = f"make run FLOW=reproduce PIPELINE={version.pipeline} VERSION={version.version}"
    return section(
        "origin",
        "Origin",
        f"<table><tbody>{rows}</tbody></table>",
        f"{card.row}. Made again by <code>{text(again)}</code>.",
    )


def _run(card: "Card", run: str) -> str:
    if not card.runs or not run:
        return text(run or NONE)
    return f'<a href="{title(card.runs + run)}">{text(run[:8])}</a>'
