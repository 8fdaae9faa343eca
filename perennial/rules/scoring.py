"""The one way from inputs to scores: training's evaluation, batch scoring and the endpoint all go through here."""

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from perennial.rules.description import Architecture, ModelDescription
from perennial.rules.network import TabularNet, by_member, combine
from perennial.rules.tabular import InputKind
from perennial.spec.models import TabularModel, TorchModel

SCORE_COLUMNS = SCORE, PREDICTED, PROBABILITIES = "score", "predicted", "probabilities"
GOLDEN_ROWS = 100
GOLDEN_TOLERANCE = 1e-6
CHUNK_ROWS = 8_192


class GoldenRowsDiffer(ValueError):
    """A model does not give the scores that were recorded when it was trained."""


class NoBuilder(LookupError):
    """The network is the pipeline's own, and the pipeline's file as it is here does not build it."""


def build_network(description: ModelDescription, model: TabularModel | TorchModel | None = None) -> nn.Module:
    """The network without its weights: the default one, or what the pipeline's own code builds.

    Raises:
        NoBuilder: the description asks for the pipeline's own network, and `model` has none of that name.
    """
    architecture = description.architecture
    if isinstance(architecture, Architecture):
        return TabularNet(description.preprocessing, architecture, description.outputs)
    if not isinstance(model, TorchModel) or model.builder.__name__ != architecture.builder:
        raise NoBuilder(
            f"this version's network is built by {architecture.builder}() of its pipeline's file, and the file here names "
            f"{model.builder.__name__ + '()' if isinstance(model, TorchModel) else 'the default network'}. Nothing was "
            "loaded. Check out the revision that the version's row names, or train a new version."
        )
    net = model.builder(description.preprocessing, description.outputs)
    if not isinstance(net, nn.Module):
        raise TypeError(f"{architecture.builder}() returned {type(net).__name__}; it must return a torch.nn.Module.")
    return net


class Scorer:
    """A model ready to score. Safe to call from several threads; holds no state but the weights.

    Args:
        model: as the pipeline declares it; needed where the network is the pipeline's own.
    """

    def __init__(
        self,
        description: ModelDescription,
        weights: dict[str, Tensor],
        model: TabularModel | TorchModel | None = None,
    ) -> None:
        self.description = description
        net = build_network(description, model)
        net.load_state_dict(weights)
        # float64: float32 matrix products differ in the 7th digit with the batch's size and the machine.
        self._net = net.double().eval()
        self._excess = _log_odds_excess(description)

    @property
    def inputs(self) -> dict[str, InputKind]:
        """The signature: names and kinds of the inputs."""
        return self.description.inputs

    def score(self, rows: pl.DataFrame) -> NDArray[np.float64]:
        """(n,): the probability of the positive class, or the predicted value in the label's unit; of many classes
        (n, classes): the probability of each, in the order of the description's `classes`.

        The same row gets the same score within 1e-9 of the label's unit, whatever rows it is sent with.

        Raises:
            ValueError: an input is missing; the message names it.
        """
        numbers, categories = self.description.preprocessing.apply(rows)
        classes = self.description.classes
        output = np.empty((rows.height, len(classes)) if classes else rows.height, dtype=np.float64)
        with torch.inference_mode():
            for start in range(0, rows.height, CHUNK_ROWS):
                part = slice(start, start + CHUNK_ROWS)
                result = self._net(torch.from_numpy(numbers[part]).double(), torch.from_numpy(categories[part]))
                if self._excess is not None:
                    result = by_member(result) - self._excess
                output[part] = combine(result, self.description.task).numpy()
        if self.description.task == "regression":
            output = output * self.description.target_scale + self.description.target_center
        return output

    def columns(self, scores: NDArray[np.float64]) -> dict[str, pl.Series]:
        """Scores as columns of `predictions`: `score`; of many classes the likeliest one's probability, its name as
        `predicted`, and each class with its probability as `probabilities`."""
        classes = self.description.classes
        if not classes:
            return {SCORE: pl.Series(SCORE, scores, dtype=pl.Float64)}
        names = np.asarray(classes, dtype=object)
        each = pl.DataFrame({"class": np.tile(names, len(scores)), "probability": scores.ravel()}, schema=_PROBABILITY)
        structs = (
            each.to_struct(PROBABILITIES).reshape((len(scores), len(classes))).cast(pl.List(pl.Struct(_PROBABILITY)))
        )
        return {
            SCORE: pl.Series(SCORE, scores.max(axis=1) if len(scores) else [], dtype=pl.Float64),
            PREDICTED: pl.Series(PREDICTED, names[scores.argmax(axis=1)], dtype=pl.String),
            PROBABILITIES: structs,
        }


def _log_odds_excess(description: ModelDescription) -> Tensor | None:
    """(outputs,) what class weights in training add to each output."""
    if not description.class_weights:
        return None
    added = torch.log(torch.tensor(description.class_weights, dtype=torch.float64))
    return added if description.classes else added[1:] - added[:1]


_PROBABILITY = {"class": pl.String, "probability": pl.Float64}


def class_matrix(probabilities: pl.Series) -> NDArray[np.float64]:
    """(n, classes): a column of `probabilities` as numbers, of rows that one version answered."""
    return np.asarray(probabilities.list.eval(pl.element().struct.field("probability")).to_list(), dtype=np.float64)


def golden_rows(rows: pl.DataFrame, scorer: Scorer, count: int = GOLDEN_ROWS) -> pl.DataFrame:
    """Rows spread evenly over `rows`, with the inputs and the score this model gives them."""
    positions = np.unique(np.linspace(0, rows.height - 1, min(count, rows.height)).round().astype(np.int64))
    chosen = rows.select(list(scorer.inputs))[positions]
    scores = scorer.score(chosen)
    return chosen.with_columns(
        pl.Series(SCORE, scores.tolist(), dtype=pl.List(pl.Float64) if scores.ndim > 1 else None)
    )


def check_golden(scorer: Scorer, golden: pl.DataFrame, tolerance: float = GOLDEN_TOLERANCE) -> None:
    """Accept a model that reproduces its golden rows, whole and one by one.

    Raises:
        GoldenRowsDiffer: it does not; the message names the row that is furthest off.
    """
    expected = np.asarray(golden[SCORE].to_list(), dtype=np.float64)
    scale = scorer.description.target_scale
    for name, scores in (
        ("all at once", scorer.score(golden)),
        ("one by one", np.concatenate([scorer.score(golden[i]) for i in range(min(5, golden.height))])),
    ):
        off = np.abs(scores - expected[: len(scores)]) / scale
        off = np.where(np.isnan(scores) & np.isnan(expected[: len(scores)]), 0.0, off)  # promotion says what that means
        off = off if off.ndim == 1 else off.max(axis=1)  # a NaN stays one
        if not np.all(off <= tolerance):  # also where a score is NaN
            row = int(np.argmax(np.nan_to_num(off, nan=np.inf)))
            raise GoldenRowsDiffer(
                f"golden row {row} of {golden.height}, scored {name}, got {scores[row]!r} where {expected[row]!r} was "
                f"recorded at training ({int((~(off <= tolerance)).sum())} rows are off by more than {tolerance:g}). "
                "The model is not served. Weights, feature code or libraries are not those it was trained with: "
                "check out the revision its version row names, or train a new version."
            )
