"""A pipeline: everything Perennial has to be told about one use case, and nothing it can find out by itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import polars as pl

from perennial.spec.history import History
from perennial.spec.models import TabularModel, TorchModel
from perennial.spec.monitoring import Monitoring
from perennial.spec.promotion import Promotion
from perennial.spec.rollout import Rollout
from perennial.spec.serving import Serving
from perennial.spec.sources import Join, Label, Source
from perennial.spec.upkeep import Upkeep

FeatureFunction = Callable[[pl.LazyFrame], pl.LazyFrame]
SCHEDULABLE = ("ingest", "log_predictions", "maintain", "monitor", "stream")


@dataclass(frozen=True)
class Schedule:
    """Run a flow for this pipeline when `cron` says so, in UTC."""

    flow: str
    cron: str


def Hourly(flow: str) -> Schedule:  # noqa: N802 - reads as a noun in a pipeline's file
    """Run a flow at the top of every hour."""
    return Schedule(flow, "0 * * * *")


def Daily(flow: str, hour: int = 3) -> Schedule:  # noqa: N802 - reads as a noun in a pipeline's file
    """Run a flow once a day at `hour` o'clock UTC."""
    return Schedule(flow, f"0 {hour} * * *")


@dataclass(frozen=True)
class Pipeline:
    """One use case, from its sources to its model. The smallest one has a name, a source, a label and a model.

    Args:
        name: what tables, routes and runs are called after, `[a-z][a-z0-9_]*`.
        sources: where data comes from.
        entity: the source whose rows are predicted for; may be left out where there is one source.
        joins: what is looked up for a row, as it was known at the moment of the prediction.
        history: aggregates over the past, as they were known at the moment of the prediction.
        features: row by row, from the entity's, the joined and the history columns to *exactly* the model's inputs: numbers,
            booleans and strings. Runs in training, batch scoring and serving. None: the entity's columns that are
            neither key, time nor label.
        label: what is predicted.
        model: what is trained.
        rollout: how a promoted version takes over from the champion.
        upkeep: how long rows are kept, and whether `maintain` deletes what is left over.
    """

    name: str
    sources: Sequence[Source]
    label: Label
    model: TabularModel | TorchModel
    entity: str = ""
    joins: Sequence[Join] = ()
    history: Sequence[History] = ()
    features: FeatureFunction | None = field(default=None, compare=False)
    schedules: Sequence[Schedule] = ()
    promotion: Promotion = field(default_factory=Promotion)
    monitoring: Monitoring = field(default_factory=Monitoring)
    serving: Serving = field(default_factory=Serving)
    rollout: Rollout = field(default_factory=Rollout)
    upkeep: Upkeep = field(default_factory=Upkeep)

    def source(self, name: str) -> Source:
        """The source called `name`.

        Raises:
            KeyError: no source has this name; the message lists those there are.
        """
        for source in self.sources:
            if source.name == name:
                return source
        raise KeyError(f"pipeline {self.name} has no source {name!r}; it has {[s.name for s in self.sources]}")

    @property
    def entity_source(self) -> Source:
        """The source whose rows are predicted for."""
        return self.source(self.entity) if self.entity else self.sources[0]

    @property
    def label_source(self) -> Source:
        """The source whose rows bring the label."""
        return self.source(self.label.source) if self.label.source else self.entity_source

    @property
    def history_sources(self) -> dict[str, list[History]]:
        """The history features by the source whose past they tell of."""
        return {f.source: [g for g in self.history if g.source == f.source] for f in self.history}

    @property
    def looked_up(self) -> list[str]:
        """The sources that a row's features need besides the row itself."""
        return list(
            dict.fromkeys([*(join.source for join in self.joins), *(feature.source for feature in self.history)])
        )

    @property
    def metric(self) -> str:
        """The metric that promotion and monitoring go by."""
        return self.promotion.metric or ("rmse" if self.model.task == "regression" else "roc_auc")
