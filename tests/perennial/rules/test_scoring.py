"""One path to a score: the same for a row alone and in company, and refused where it is not the trained one."""

import numpy as np
import polars as pl
import pytest
import torch

from perennial.rules.description import Architecture, ModelDescription
from perennial.rules.network import TabularNet
from perennial.rules.scoring import GoldenRowsDiffer, Scorer, check_golden, golden_rows
from perennial.rules.tabular import InputKind, fit_preprocessing

GENERATOR = np.random.default_rng(11)
INPUTS: dict[str, InputKind] = {"a": "number", "b": "number", "c": "category"}
ROWS = pl.DataFrame(
    {
        "a": GENERATOR.normal(size=3_000),
        "b": [None if x < 0.1 else x for x in GENERATOR.random(3_000)],
        "c": GENERATOR.choice(["x", "y", "z"], 3_000),
    }
)


def scorer(task: str = "binary", seed: int = 1, scale: float = 1.0) -> Scorer:
    torch.manual_seed(seed)
    fitted, architecture = fit_preprocessing(ROWS, INPUTS), Architecture(hidden=(64, 64), dropout=0.2)
    description = ModelDescription.model_validate(
        {
            "task": task,
            "architecture": architecture,
            "preprocessing": fitted,
            "target_scale": scale,
            "target_center": 5.0,
        }
    )
    return Scorer(description, TabularNet(fitted, architecture).state_dict())


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_row_has_one_score_whatever_it_is_sent_with(task: str) -> None:
    model = scorer(task, scale=1000.0)
    together = model.score(ROWS)
    shuffled = ROWS.with_row_index().sample(fraction=1.0, shuffle=True, seed=2)
    assert np.abs(model.score(shuffled) - together[shuffled["index"].to_numpy()]).max() < 1e-9
    assert np.abs(np.concatenate([model.score(ROWS[i]) for i in range(50)]) - together[:50]).max() < 1e-9


def test_scores_are_probabilities() -> None:
    scores = scorer().score(ROWS)
    assert scores.dtype == np.float64
    assert scores.shape == (3_000,)
    assert ((scores > 0) & (scores < 1)).all()


def test_values_beyond_the_training_rows_are_held_at_their_ends() -> None:
    model = scorer()
    top = ROWS["a"].max()
    at, beyond = (ROWS[:1].with_columns(a=pl.lit(value)) for value in (top, 1e9))
    assert model.score(at) == pytest.approx(model.score(beyond), abs=1e-5)


def test_no_rows_have_no_scores() -> None:
    assert scorer().score(ROWS[:0]).shape == (0,)


def test_a_model_reproduces_its_golden_rows() -> None:
    model = scorer()
    golden = golden_rows(ROWS, model)
    assert golden.height == 100
    assert golden.columns == ["a", "b", "c", "score"]
    check_golden(scorer(), golden)


def test_another_model_does_not_pass_for_it() -> None:
    with pytest.raises(GoldenRowsDiffer, match="not served"):
        check_golden(scorer(seed=2), golden_rows(ROWS, scorer(seed=1)))


def test_a_score_that_is_no_number_does_not_pass() -> None:
    golden = golden_rows(ROWS, scorer()).with_columns(score=pl.lit(float("nan")))
    with pytest.raises(GoldenRowsDiffer):
        check_golden(scorer(), golden)


def test_a_model_without_numbers_or_without_categories_scores() -> None:
    for inputs in ({"a": "number"}, {"c": "category"}):
        fitted = fit_preprocessing(ROWS, inputs)  # type: ignore[arg-type]
        architecture = Architecture(hidden=(8,), dropout=0.0)
        description = ModelDescription(task="binary", architecture=architecture, preprocessing=fitted)
        assert Scorer(description, TabularNet(fitted, architecture).state_dict()).score(ROWS[:5]).shape == (5,)
