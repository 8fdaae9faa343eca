"""A version's model card: what it learned from, what it is worth, what became of it; every figure says where it is from."""

from dataclasses import dataclass

from pydantic import BaseModel

from perennial.datadocs import card_record, card_sections
from perennial.datadocs.frame import frame
from perennial.datadocs.text import text
from perennial.lakehouse.decisions import Decision
from perennial.lakehouse.registry import ModelVersion
from perennial.lakehouse.stages import Stage
from perennial.rules.curves import Bin, Curve, Importance, Period, SliceValue

NAV = ("metrics", "curves", "calibration", "slices", "inputs", "training", "window", "history", "origin")


class Figures(BaseModel, frozen=True):
    """What is drawn, as it was worked out from `rows` labelled rows of a snapshot that training never saw.

    Args:
        table: the features, as people write it; `row_hash` is over the rows that were read.
        calibration: bins of probability; of a regression, tenths of the predicted values.
    """

    pipeline: str
    version: int
    task: str
    metric: str
    table: str
    snapshot_id: int
    rows: int
    row_hash: str
    roc: list[Curve] = []
    pr: list[Curve] = []
    calibration: list[Bin] = []
    residuals: list[Bin] = []
    slices: list[SliceValue] = []
    importance: list[Importance] = []
    importance_rows: int = 0
    periods: list[Period] = []

    @property
    def source(self) -> str:
        """Where the figures come from, in words."""
        return f"{self.rows:,} rows of {self.table}, snapshot {self.snapshot_id}, SHA-256 {self.row_hash[:16]}"


@dataclass(frozen=True)
class Card:
    """All that a card shows.

    Args:
        versions, stages, decisions: the tables that were read, as people write them.
        history: the version's own steps, from old to new; `judged`: decisions about it.
        runs: what the address of a flow run begins with in Prefect's UI; None where there is none.
    """

    environment: str
    version: ModelVersion
    figures: Figures
    history: list[Stage]
    judged: list[Decision]
    versions: str
    stages: str
    decisions: str
    runs: str | None

    @property
    def metrics(self) -> dict[str, dict[str, float | None]]:
        """The metrics of the version's row, by name."""
        return {name: each for name, each in self.version.read_metrics().items() if isinstance(each, dict)}

    @property
    def curve(self) -> list[dict[str, float]]:
        """The training curve of the version's row."""
        found: list[dict[str, float]] = self.version.read_metrics().get("curve", [])
        return found

    @property
    def row(self) -> str:
        """The version's row, in words: the source of its numbers."""
        return f"{self.versions}, pipeline {self.version.pipeline}, version {self.version.version}"

    @property
    def promotion(self) -> Decision | None:
        """The last verdict on it."""
        return next((each for each in reversed(self.judged) if each.kind == "promotion"), None)


def card_path(pipeline: str, version: int, suffix: str = "html") -> str:
    """Where a version's card lies in the environment."""
    return f"reports/{pipeline}/models/version-{version}.{suffix}"


def figures_path(pipeline: str, version: int) -> str:
    """Where its figures lie: what is dear to work out is kept."""
    return card_path(pipeline, version, "json")


def card_page(card: Card) -> str:
    """The card as a page."""
    name = f"{card.version.pipeline} / version {card.version.version}"
    links = "".join(f'<a href="#{part}">{part.capitalize()}</a>' for part in NAV)
    head = f"<header><h1>{text(card.version.pipeline)} / version {card.version.version}</h1><nav>{links}</nav></header>"
    parts = [
        card_sections.summary(card),
        card_sections.metrics(card),
        card_sections.curves(card),
        card_sections.calibration(card),
        card_sections.slices(card),
        card_sections.inputs(card),
        card_record.training(card),
        card_record.window(card),
        card_record.history(card),
        card_record.origin(card),
    ]
    foot = (
        f"<footer><p>Environment <b>{text(card.environment)}</b>. Numbers come from rows of <code>{text(card.versions)}</code>, "
        f"<code>{text(card.stages)}</code> and <code>{text(card.decisions)}</code>, and from <code>{text(card.figures.table)}"
        "</code> at the snapshot that is named; pointed at, each says from which. Moments are UTC.</p></footer>"
    )
    return frame(f"Model card: {name}", "", f"{head}\n<main>{''.join(parts)}</main>\n{foot}")
