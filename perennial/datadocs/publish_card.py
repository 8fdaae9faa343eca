"""Put a version's card where people open it: the page, the same as Markdown, and beside them the figures as JSON."""

import polars as pl

from perennial.datadocs.card import Card, Figures, card_page, card_path, figures_path
from perennial.datadocs.text import NONE, when
from perennial.lakehouse.decisions import Decision, read_decisions
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.registry import read_version
from perennial.lakehouse.stages import read_stages
from perennial.lakehouse.tables import dotted

KINDS = ("promotion", "rollout", "reproduction")


def read_figures(lake: Lake, pipeline: str, version: int) -> Figures | None:
    """The figures that were worked out for a version; None before that."""
    try:
        return Figures.model_validate_json(lake.files().cat_file(lake.uri(figures_path(pipeline, version))))
    except FileNotFoundError:
        return None


def publish_card(lake: Lake, figures: Figures, runs: str | None) -> Card:
    """Make a version's page and its Markdown anew from what the tables say by now.

    Args:
        runs: what the address of a flow run begins with in Prefect's UI.
    """
    card = read_card(lake, figures, runs)
    for suffix, text in (("html", card_page(card)), ("md", card_markdown(card))):
        lake.files().pipe_file(lake.uri(card_path(figures.pipeline, figures.version, suffix)), text.encode())
    return card


def read_card(lake: Lake, figures: Figures, runs: str | None) -> Card:
    """All that a card shows: the figures, and what the registry and the decisions say of the version."""
    pipeline, number = figures.pipeline, figures.version
    rows = read_decisions(lake, pipeline).filter(pl.col("version") == number, pl.col("kind").is_in(KINDS))
    return Card(
        environment=lake.environment,
        version=read_version(lake, pipeline, number),
        figures=figures,
        history=[step for step in read_stages(lake, pipeline) if step.version == number],
        judged=[
            Decision.model_validate({name: row[name] for name in Decision.model_fields})
            for row in rows.iter_rows(named=True)
        ],
        versions=dotted(lake.system("versions")),
        stages=dotted(lake.system("stages")),
        decisions=dotted(lake.system("decisions")),
        runs=runs,
    )


def card_markdown(card: Card) -> str:
    """The card without its plots: tables that any Markdown reader shows. Text of anybody stands in code spans."""
    version, judged = card.version, card.promotion
    metrics = _table(
        ("metric", "value", "95% from", "to", "a constant"),
        [[name, *(_figure(found.get(each)) for each in ("value", "low", "high", "constant"))] for name, found in card.metrics.items()],
    )  # fmt: skip
    slices = _table(
        ("slice", "rows", card.figures.metric, "95% from", "to"),
        [
            [_code(f"{each.column} = {each.value}"), f"{each.rows:,}", _figure(each.metric), _figure(each.low), _figure(each.high)]
            for each in card.figures.slices
        ],
    )  # fmt: skip
    inputs = _table(
        ("input", "loss when shuffled"),
        [[_code(each.input), f"{each.loss:+.4f}"] for each in card.figures.importance[:15]],
    )
    steps = _table(
        ("stage", "as of", "because"),
        [[step.stage, when(step.as_of), _code(step.reason[:200])] for step in card.history],
    )
    verdict = (
        f"**{judged.verdict}**, {_code(judged.reason)}, decision `{judged.decision_id}`" if judged else "not judged yet"
    )
    return (
        f"# {version.pipeline}, version {version.version}\n\nVerdict: {verdict}.\n\nTrained because: {_code(version.reason)}. "
        f"On {version.training_rows:,} rows, stopped by {version.validation_rows:,}, from {when(version.train_start)} to "
        f"{when(version.holdout_start)}; judged on {version.holdout_rows:,} rows to {when(version.holdout_end)} that it never "
        f"saw. Labels known by {when(version.as_of)} UTC.\n\n"
        f"## Metrics on the holdout\n\n{metrics}\nSource: `{card.row}`, column `metrics`.\n\n"
        f"## Slices\n\n{slices}\n## Inputs\n\n{inputs}\nSource of both: `{card.figures.source}`.\n\n"
        f"## Stages\n\n{steps}\nSource: `{card.stages}`.\n\n"
        f"## Origin\n\nRows `{version.row_hash}`, features snapshot `{version.features_snapshot_id}`, code "
        f"`{version.code_hash or version.feature_code_hash}`, environment `{version.lock_hash}`, seed {version.seed}, files "
        f"`{version.artifact_id}` with manifest `{version.manifest_sha256}`.\n"
    )


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    if not rows:
        return "None.\n\n"
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def _figure(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _code(text: str) -> str:
    """Text of anybody as a code span that cannot end early nor break a table."""
    shown = "".join(each if each.isprintable() else " " for each in text).replace("`", "'").replace("|", "/")
    return f"`{shown}`" if shown.strip() else NONE
