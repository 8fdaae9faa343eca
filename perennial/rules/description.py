"""What a model is, without its weights. Without torch as well: reading a description must not cost its import."""

from typing import Literal

from pydantic import BaseModel, Field

from perennial.rules.tabular import InputKind, Preprocessing


class Architecture(BaseModel, frozen=True):
    """Sizes of the network, as stored beside its weights."""

    hidden: tuple[int, ...]
    dropout: float
    category_dropout: float = 0.02


class ModelDescription(BaseModel, frozen=True):
    """Everything of a model but its weights, as `model.json` holds it.

    Args:
        threshold: probability from which a row is decided positive: the best F1 on the rows that stopped training.
        target_center: mean of the training labels; 0 for a binary target.
        target_scale: their standard deviation: a regression network answers in units of it.
    """

    format: Literal["perennial.tabular/1"] = "perennial.tabular/1"
    task: Literal["binary", "regression"]
    architecture: Architecture
    preprocessing: Preprocessing
    threshold: float = Field(0.5, ge=0, le=1)
    target_center: float = 0.0
    target_scale: float = 1.0

    @property
    def inputs(self) -> dict[str, InputKind]:
        """The signature: names and kinds of the inputs, in the order of training."""
        return self.preprocessing.inputs
