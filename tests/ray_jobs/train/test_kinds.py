"""What tables bring: classes, weights, gaps, constants, few rows; and networks that a pipeline brings itself."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from perennial.rules.description import (
    Architecture,
    ModelDescription,
    ModuleSource,
    Task,
    UnfitLabels,
    check_labels,
    find_classes,
)
from perennial.rules.metrics import roc_auc
from perennial.rules.scoring import (
    NoBuilder,
    Scorer,
    build_network,
    check_golden,
    class_matrix,
    golden_rows,
)
from perennial.rules.tabular import InputKind, Preprocessing, fit_preprocessing
from perennial.spec import TabularModel, TorchModel
from ray_jobs.train.fit import FitOptions, fit
from ray_jobs.train.objective import Batch

torch.set_num_threads(1)
INPUTS: dict[str, InputKind] = {"a": "number", "b": "number", "still": "number", "colour": "category"}


def table(count: int, seed: int = 3) -> pl.DataFrame:
    """Rows with gaps, a constant column and a value seen once; `y` depends on `a` and `colour`."""
    generator = np.random.default_rng(seed)
    a, colour = generator.normal(size=count), generator.choice(["red", "green", "blue"], count)
    return pl.DataFrame(
        {
            "a": a,
            "b": [None if gap else value for gap, value in zip(generator.random(count) < 0.2, a**2, strict=True)],
            "still": np.full(count, 7.0),
            "colour": ["once", *colour[1:]],
            "y": a + 1.5 * (colour == "red") + 0.3 * generator.normal(size=count),
        }
    )


def learned(
    task: Task, rows: pl.DataFrame, labels: pl.Series, model: TabularModel | TorchModel, weight: Tensor | None = None
) -> Scorer:
    """Trained on all rows but the newest tenth, as the worker does it."""
    value = labels.cast(pl.Float64).to_numpy() if task == "regression" else np.zeros(1)
    loss = model.loss if isinstance(model, TorchModel) else None
    description = ModelDescription(
        task=task,
        architecture=ModuleSource(builder=model.builder.__name__, code_hash="")
        if isinstance(model, TorchModel)
        else Architecture(hidden=model.hidden, dropout=model.dropout, members=model.members),
        preprocessing=fit_preprocessing(rows, INPUTS),
        target_center=float(value.mean()),
        target_scale=float(value.std()) or 1.0,
        classes=find_classes(labels) if task == "multiclass" else (),
    )
    matrices = description.preprocessing.apply(rows)
    target = torch.from_numpy(description.target(labels).astype(np.float32))
    whole = Batch(torch.from_numpy(matrices.numbers), torch.from_numpy(matrices.categories), target, weight)
    cut = int(rows.height * 0.9)
    options = FitOptions.of(model, cut)
    torch.manual_seed(options.seed)
    net = build_network(description, model)
    state = fit(net, whole.at(slice(0, cut)), whole.at(slice(cut, rows.height)), options, loss=loss)
    return Scorer(description, state.kept_weights, model)


FAST = TabularModel("binary", batch_rows=256, epochs=3)
SMALL = TabularModel("binary", hidden=(32, 16), members=4, epochs=2)


@pytest.mark.parametrize("count", [100, 1_000])
def test_two_classes_are_told_apart(count: int) -> None:
    rows, new = table(count), table(1_000, seed=9)
    scores = learned("binary", rows, rows["y"] > 0.5, FAST).score(new)
    assert roc_auc((new["y"] > 0.5).to_numpy(), scores) > 0.9


@pytest.mark.parametrize("names", [["low", "middle", "high"], [10, 9, 2]])
def test_many_classes_are_told_apart_whether_named_or_numbered(names: list[str] | list[int]) -> None:
    def classes(rows: pl.DataFrame) -> pl.Series:
        position = (rows["y"] > 0).cast(pl.Int64) + (rows["y"] > 1.5).cast(pl.Int64)
        return pl.Series("class", [names[place] for place in position])

    rows, new = table(1_000), table(500, seed=9)
    scorer = learned("multiclass", rows, classes(rows), replace(FAST, task="multiclass"))
    assert scorer.description.classes == tuple(str(name) for name in sorted(names))  # numbers by value: 10 after 9
    scores = scorer.score(new)
    assert scores.shape == (500, 3)
    assert scores.sum(axis=1) == pytest.approx(1.0)
    columns = pl.DataFrame(scorer.columns(scores))
    assert (columns["predicted"] == classes(new).cast(pl.String)).to_numpy().mean() > 0.8
    assert (class_matrix(columns["probabilities"]) == scores).all()
    assert columns["score"].to_list() == pytest.approx(scores.max(axis=1))
    check_golden(scorer, golden_rows(rows, scorer))


def test_a_number_is_told_within_its_noise() -> None:
    rows, new = table(1_000), table(1_000, seed=9)
    scores = learned("regression", rows, rows["y"] * 1e6, replace(FAST, task="regression")).score(new) / 1e6
    assert np.sqrt(((scores - new["y"].to_numpy()) ** 2).mean()) < 0.4  # the noise is 0.3


def test_gaps_unseen_values_and_infinities_are_scored() -> None:
    scorer = learned("binary", table(300), table(300)["y"] > 0.5, SMALL)
    odd = pl.DataFrame(
        {
            "a": [None, np.inf, np.nan],
            "b": [1e300, None, 0.0],
            "still": [0.0, None, 9.0],
            "colour": ["pink", None, "red"],
        }
    )
    assert np.isfinite(scorer.score(odd)).all()


@pytest.mark.parametrize("constant", [INPUTS, {"still": "number"}])
def test_a_table_of_constants_gives_the_share_of_the_class(constant: Mapping[str, InputKind]) -> None:
    rows = table(400).with_columns(pl.lit(1.0).alias("a"), pl.lit(None, pl.Float64).alias("b"), colour=pl.lit("red"))
    labels = pl.Series([1.0, 0.0, 0.0, 0.0] * 100)
    scores = learned("binary", rows, labels, SMALL).score(rows)
    assert scores == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize(
    ("task", "values", "says"),
    [
        ("binary", [1.0, 2.0, 2.0], r"2 of 3 labels of a binary model are 2, and not 0 and 1"),
        ("binary", [-1.0, 1.0, None], r"1 of 3 labels .* are -1"),
        ("regression", [1.0, float("nan"), float("inf")], "2 of 3 labels of a regression model are inf, nan"),
    ],
)
def test_labels_that_teach_nonsense_are_named(task: Task, values: list[float], says: str) -> None:
    with pytest.raises(UnfitLabels, match=says):
        check_labels(pl.Series(values), task)
    check_labels(pl.Series([True, False, None]), "binary")


def test_classes_that_counted_more_in_training_leave_scores_that_are_probabilities() -> None:
    rows = table(4_000)
    rare = pl.Series(rows["y"] > 2.2)
    share = rare.mean()
    assert isinstance(share, float)
    balanced = (0.5 / (1 - share), 0.5 / share)
    weight = torch.from_numpy(np.where(rare, balanced[1], balanced[0]).astype(np.float32))
    scorer = learned("binary", rows, rare, replace(FAST, epochs=8), weight)
    told = Scorer(scorer.description.model_copy(update={"class_weights": balanced}), scorer._net.state_dict())
    assert scorer.score(rows).mean() > 1.3 * share
    assert told.score(rows).mean() == pytest.approx(share, rel=0.15)
    assert roc_auc(rare.to_numpy(), told.score(rows)) == pytest.approx(
        roc_auc(rare.to_numpy(), scorer.score(rows)), abs=1e-3
    )


def test_a_loss_of_the_pipeline_s_own_that_ignores_weights_is_refused() -> None:
    model = TorchModel("regression", builder=line, loss=mean_absolute, epochs=1)
    with pytest.raises(ValueError, match=r"shape \(\) for \d+ rows that have weights"):
        learned("regression", table(300), table(300)["y"], model, torch.ones(300))


def test_rows_that_weigh_nothing_teach_nothing() -> None:
    rows = table(2_000)
    truth = rows["y"] > 0.5
    false = np.random.default_rng(5).random(rows.height) < 0.6
    labels = pl.Series(np.where(false, 0.0, truth.to_numpy().astype(float)))  # most of those that are 1 say 0
    scores = learned("binary", rows, labels, SMALL, torch.from_numpy(np.where(false, 0.0, 2.5).astype(np.float32)))
    misled = learned("binary", rows, labels, SMALL)
    share = float(truth.to_numpy().mean())
    assert scores.score(rows).mean() == pytest.approx(share, abs=0.05)
    assert misled.score(rows).mean() < 0.6 * share


class Line(nn.Module):
    """A linear model of everything: a network that is not ours."""

    def __init__(self, preprocessing: Preprocessing, outputs: int) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(column.slots, 4) for column in preprocessing.categories)
        self.line = nn.Linear(preprocessing.number_width + 4 * len(self.embed), outputs)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        parts = [embed(categories[:, place]) for place, embed in enumerate(self.embed)]
        found: Tensor = self.line(torch.cat([numbers, *parts], dim=1))
        return found


def line(preprocessing: Preprocessing, outputs: int) -> nn.Module:
    return Line(preprocessing, outputs)


def absolute(output: Tensor, target: Tensor) -> Tensor:
    return (output[:, 0] - target).abs()


def mean_absolute(output: Tensor, target: Tensor) -> Tensor:
    return absolute(output, target).mean()


@pytest.mark.parametrize("loss", [None, absolute, mean_absolute])
def test_a_network_and_a_loss_of_the_pipeline_s_own_are_trained_alike(loss: object) -> None:
    rows, new = table(2_000), table(1_000, seed=9)
    model = TorchModel("regression", builder=line, loss=loss, learning_rate=0.02)  # type: ignore[arg-type]
    scorer = learned("regression", rows, rows["y"], model)
    assert np.abs(scorer.score(new) - new["y"].to_numpy()).mean() < 0.4
    check_golden(scorer, golden_rows(rows, scorer))


def test_a_network_of_many_outputs_is_the_pipeline_s_own_too() -> None:
    rows = table(1_000)
    labels = pl.Series(np.where(rows["y"].to_numpy() > 1, "up", np.where(rows["y"].to_numpy() < 0, "down", "flat")))
    scorer = learned("multiclass", rows, labels, TorchModel("multiclass", builder=line, learning_rate=0.02))
    found = pl.DataFrame(scorer.columns(scorer.score(rows)))
    assert (found["predicted"] == labels).to_numpy().mean() > 0.7


def test_a_stored_network_is_built_by_the_pipeline_s_file_or_not_at_all() -> None:
    rows = table(200)
    scorer = learned("regression", rows, rows["y"], TorchModel("regression", builder=line))
    weights = {name: value.float() for name, value in scorer._net.state_dict().items()}
    with pytest.raises(NoBuilder, match=r"built by line\(\).*the default network"):
        Scorer(scorer.description, weights, TabularModel("regression"))
    with pytest.raises(NoBuilder, match=r"line\(\)"):
        Scorer(scorer.description, weights)
