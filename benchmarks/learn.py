"""The default model on a table in memory: as the training job makes it, without Ray and without a lakehouse."""

from collections.abc import Callable, Mapping

import numpy as np
import polars as pl
import torch

from perennial.rules.description import Architecture, ModelDescription, find_classes
from perennial.rules.scoring import Scorer, build_network
from perennial.rules.tabular import InputKind, fit_preprocessing
from perennial.spec import TabularModel
from ray_jobs.train.fit import EpochReport, FitOptions, FitState, fit
from ray_jobs.train.objective import Batch


def learn(
    model: TabularModel,
    rows: pl.DataFrame,
    inputs: Mapping[str, InputKind],
    label: str,
    validation_share: float = 0.1,
    after_epoch: Callable[[Scorer], None] = lambda scorer: None,
) -> Scorer:
    """A scorer trained on the rows in their order, stopped by the last ones.

    Args:
        after_epoch: called with the scorer that training would end in if it ended there.
    """
    cut = int(rows.height * (1 - validation_share))
    training, values = rows[:cut], rows[label]
    regression = model.task == "regression"
    centre = values[:cut].cast(pl.Float64).to_numpy() if regression else np.zeros(1)
    description = ModelDescription(
        task=model.task,
        architecture=Architecture(hidden=model.hidden, dropout=model.dropout, members=model.members),
        preprocessing=fit_preprocessing(training, inputs),
        target_center=float(centre.mean()),
        target_scale=float(centre.std()) or 1.0,
        classes=find_classes(values) if model.task == "multiclass" else (),
    )
    matrices = description.preprocessing.apply(rows)
    target = torch.from_numpy(description.target(values).astype(np.float32))
    whole = Batch(torch.from_numpy(matrices.numbers), torch.from_numpy(matrices.categories), target)
    options = FitOptions.of(model, cut)
    torch.manual_seed(options.seed)

    def tell(state: FitState, report: EpochReport) -> None:
        after_epoch(Scorer(description, state.kept_weights))

    training_batch, validation = whole.at(slice(0, cut)), whole.at(slice(cut, rows.height))
    state = fit(build_network(description), training_batch, validation, options, after_epoch=tell)
    return Scorer(description, state.kept_weights)
