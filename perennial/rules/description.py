"""What a model is, without its weights. Without torch as well: reading a description must not cost its import."""

from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from perennial.rules.tabular import InputKind, Preprocessing

Task = Literal["binary", "multiclass", "regression"]


class Architecture(BaseModel, frozen=True):
    """Sizes of the default network, as stored beside its weights.

    Args:
        members: networks in the ensemble, which share most of their weights; 1 for a plain network, as format 1 had.
    """

    hidden: tuple[int, ...]
    dropout: float
    category_dropout: float = 0.02
    members: int = 1


class ModuleSource(BaseModel, frozen=True):
    """A network of the pipeline's own: which function of its file builds it, and the version of that code."""

    builder: str
    code_hash: str


class ModelDescription(BaseModel, frozen=True):
    """Everything of a model but its weights, as `model.json` holds it.

    Args:
        threshold: probability from which a row is decided positive: the best F1 on the rows that stopped training.
        architecture: of the default network, or where a network of the pipeline's own comes from.
        target_center: mean of the training labels; 0 for a target of classes.
        target_scale: their standard deviation: a regression network answers in units of it.
        classes: a multi-class target's classes as text, in the order of the network's outputs.
        class_weights: by which the classes counted in training, where they did. A network learns log-odds that are too
            large by their logarithms (Saerens et al. 2002, 10.1162/089976602753284446); they are taken off its answers,
            so that scores are probabilities of rows as they come.
    """

    format: Literal["perennial.tabular/1", "perennial.tabular/2"] = "perennial.tabular/2"
    task: Task
    architecture: Architecture | ModuleSource
    preprocessing: Preprocessing
    threshold: float = Field(0.5, ge=0, le=1)
    target_center: float = 0.0
    target_scale: float = 1.0
    classes: tuple[str, ...] = ()
    class_weights: tuple[float, ...] = ()

    @property
    def inputs(self) -> dict[str, InputKind]:
        """The signature: names and kinds of the inputs, in the order of training."""
        return self.preprocessing.inputs

    @property
    def outputs(self) -> int:
        """Numbers the network answers with for a row: one, or one for each class."""
        return len(self.classes) or 1

    def target(self, labels: pl.Series) -> NDArray[np.float64]:
        """(n,): what the network is trained towards: 0 or 1, the class's position, or the label in standard deviations."""
        return (self.labels(labels) - self.target_center) / self.target_scale

    def labels(self, labels: pl.Series) -> NDArray[np.float64]:
        """(n,): the label as a number; of many classes the class's position, and -1 for one never trained on."""
        if self.task == "multiclass":
            return class_positions(labels, self.classes).astype(np.float64)
        return labels.cast(pl.Float64).to_numpy()


def check_labels(labels: pl.Series, task: Task) -> None:
    """Refuse labels that a network would learn nonsense from.

    Raises:
        UnfitLabels: of two classes some are neither 0 nor 1, or numbers are not finite.
    """
    if task == "multiclass":
        return
    values = labels.cast(pl.Float64)
    wrong = values.filter(~(values.is_in([0.0, 1.0]) if task == "binary" else values.is_finite())).drop_nulls()
    if wrong.len():
        shown = ", ".join(f"{value:g}" for value in wrong.unique().sort().head(5))
        asked = "0 and 1 (or false and true)" if task == "binary" else "finite numbers"
        raise UnfitLabels(
            f"{wrong.len():,} of {labels.len():,} labels of a {task} model are {shown}, and not {asked}. Nothing was "
            "trained. Correct the expression of Label(...), then run build_features and train again."
        )


class UnfitLabels(ValueError):
    """Labels that cannot be learned from."""


def find_classes(labels: pl.Series) -> tuple[str, ...]:
    """The classes there are, in order: numbers by their value, else as text.

    Raises:
        ValueError: fewer than two, which leaves nothing to tell apart.
    """
    found = labels.cast(pl.String).drop_nulls().unique().to_list()
    if len(found) < 2:
        raise ValueError(f"the labels that may be trained on are all of one class, {found}. Nothing was trained.")
    whole = all(text.lstrip("-").isdecimal() for text in found)
    return tuple(sorted(found, key=int) if whole else sorted(found))


def class_positions(labels: pl.Series, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """(n,): each label's position among the classes; -1 for one that is not among them."""
    known = pl.Series(classes, dtype=pl.String)
    positions = pl.Series(range(len(classes)), dtype=pl.Int64)
    found = labels.cast(pl.String).replace_strict(known, positions, default=-1, return_dtype=pl.Int64)
    return found.to_numpy()
