"""The one way from inputs to scores: training's evaluation, batch scoring and the endpoint all go through here."""

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from perennial.rules.description import ModelDescription
from perennial.rules.network import TabularNet
from perennial.rules.tabular import InputKind

SCORE = "score"
GOLDEN_ROWS = 100
GOLDEN_TOLERANCE = 1e-6
CHUNK_ROWS = 8_192


class GoldenRowsDiffer(ValueError):
    """A model does not give the scores that were recorded when it was trained."""


class Scorer:
    """A model ready to score. Safe to call from several threads; holds no state but the weights."""

    def __init__(self, description: ModelDescription, weights: dict[str, Tensor]) -> None:
        self.description = description
        net = TabularNet(description.preprocessing, description.architecture)
        net.load_state_dict(weights)
        # float64: float32 matrix products differ in the 7th digit with the batch's size and the machine.
        self._net = net.double().eval()

    @property
    def inputs(self) -> dict[str, InputKind]:
        """The signature: names and kinds of the inputs."""
        return self.description.inputs

    def score(self, rows: pl.DataFrame) -> NDArray[np.float64]:
        """(n,): the probability of the positive class, or the predicted value in the label's unit.

        The same row gets the same score within 1e-9 of the label's unit, whatever rows it is sent with.

        Raises:
            ValueError: an input is missing; the message names it.
        """
        numbers, categories = self.description.preprocessing.apply(rows)
        output = np.empty(rows.height, dtype=np.float64)
        with torch.inference_mode():
            for start in range(0, rows.height, CHUNK_ROWS):
                part = slice(start, start + CHUNK_ROWS)
                result = self._net(torch.from_numpy(numbers[part]).double(), torch.from_numpy(categories[part]))
                output[part] = (torch.sigmoid(result) if self.description.task == "binary" else result).numpy()
        if self.description.task == "regression":
            output = output * self.description.target_scale + self.description.target_center
        return output


def golden_rows(rows: pl.DataFrame, scorer: Scorer, count: int = GOLDEN_ROWS) -> pl.DataFrame:
    """Rows spread evenly over `rows`, with the inputs and the score this model gives them."""
    positions = np.unique(np.linspace(0, rows.height - 1, min(count, rows.height)).round().astype(np.int64))
    chosen = rows.select(list(scorer.inputs))[positions]
    return chosen.with_columns(pl.Series(SCORE, scorer.score(chosen)))


def check_golden(scorer: Scorer, golden: pl.DataFrame, tolerance: float = GOLDEN_TOLERANCE) -> None:
    """Accept a model that reproduces its golden rows, whole and one by one.

    Raises:
        GoldenRowsDiffer: it does not; the message names the row that is furthest off.
    """
    expected = golden[SCORE].to_numpy()
    scale = scorer.description.target_scale
    for name, scores in (
        ("all at once", scorer.score(golden)),
        ("one by one", np.concatenate([scorer.score(golden[i]) for i in range(min(5, golden.height))])),
    ):
        off = np.abs(scores - expected[: len(scores)]) / scale
        if not np.all(off <= tolerance):  # also where a score is NaN
            row = int(np.argmax(np.nan_to_num(off, nan=np.inf)))
            raise GoldenRowsDiffer(
                f"golden row {row} of {golden.height}, scored {name}, got {scores[row]!r} where {expected[row]!r} was "
                f"recorded at training ({int((~(off <= tolerance)).sum())} rows are off by more than {tolerance:g}). "
                "The model is not served. Weights, feature code or libraries are not those it was trained with: "
                "check out the revision its version row names, or train a new version."
            )
