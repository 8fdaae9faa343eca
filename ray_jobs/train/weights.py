"""How much each training row counts: its own weight times its class's."""

from typing import NamedTuple

import numpy as np
import polars as pl

from perennial.rules.description import ModelDescription
from perennial.rules.features import label_weights
from perennial.spec import Pipeline


class UselessWeights(ValueError):
    """The weights that a pipeline declares cannot be trained with."""


class RowWeights(NamedTuple):
    """Weights of the target's values, none where classes count the same, and what a training row weighs on average."""

    by_class: tuple[float, ...] = ()
    mean: float = 1.0


def weigh_rows(pipeline: Pipeline, description: ModelDescription, rows: pl.DataFrame) -> RowWeights:
    """The weights of training rows.

    Raises:
        UselessWeights: a row has no weight, or a negative or infinite one, or none counts.
    """
    own = np.ones(rows.height)
    for name in label_weights(pipeline):
        own = rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        wrong = int((~(np.isfinite(own) & (own >= 0))).sum())
        if wrong or not own.sum():
            said = f"{wrong} of {rows.height} are missing, negative or infinite" if wrong else "all of them are 0"
            raise UselessWeights(
                f"the weights of {pipeline.name}'s label cannot be trained with: {said}. Nothing was trained. Correct "
                "the expression of Label(weight=...), then run build_features and train again."
            )
    positions = description.labels(rows[pipeline.label.name]).astype(np.int64)
    by_class = _class_weights(pipeline, description, positions)
    weights = own * np.asarray(by_class)[positions] if by_class else own
    return RowWeights(by_class, float(weights.mean()))


def _class_weights(pipeline: Pipeline, description: ModelDescription, positions: np.ndarray) -> tuple[float, ...]:
    wanted = pipeline.model.class_weight
    if wanted is None:
        return ()
    names = description.classes or ("0", "1")
    if not isinstance(wanted, str):
        unknown = sorted(set(wanted) - set(names))
        if unknown:
            raise UselessWeights(
                f"class_weight of {pipeline.name} names {unknown}, and the labels are {list(names)}. Nothing was trained."
            )
        return tuple(float(wanted.get(name, 1.0)) for name in names)
    counts = np.bincount(positions, minlength=len(names))
    return tuple(float(len(positions) / (len(names) * count)) if count else 1.0 for count in counts)
