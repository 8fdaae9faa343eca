"""The card as text: every number says where it is from, and text of anybody is only ever shown."""

import re

import numpy as np
import pytest

from perennial.datadocs.card import card_page
from perennial.datadocs.publish_card import card_markdown
from perennial.rules.curves import calibration_bins, pr_curves, roc_curves
from tests.perennial.datadocs.card_world import HARM, card

TASKS = ["binary", "multiclass", "regression"]


@pytest.mark.parametrize("task", TASKS)
def test_every_number_names_its_row_decision_or_snapshot(task: str) -> None:
    page = card_page(card(task))
    sources = re.findall(r'<data title="([^"]*)">', page)
    assert len(sources) > 30
    assert all(
        re.match(
            r"local_perennial\.versions, pipeline rides, version 3: \w+|3,000 rows of local_rides\.features, snapshot 77, SHA",
            each,
        )
        for each in sources
    )
    sections = re.findall(r'<section id="(\w+)">(.*?)</section>', page, flags=re.S)
    assert [name for name, _ in sections] == [
        "metrics", "curves", "calibration", "slices", "inputs", "training", "window", "history", "origin",
    ]  # fmt: skip
    for name, body in sections:
        assert re.search(r'<p class="note">.*(local_perennial|local_rides\.features)', body, flags=re.S), name


@pytest.mark.parametrize("task", TASKS)
def test_text_of_anybody_is_shown_and_never_run(task: str) -> None:
    made = card(task)
    assert "<script>alert" not in card_page(made)
    assert "&lt;script&gt;alert(1)" in card_page(made)
    outside = re.sub(r"`[^`\n]*`", "", card_markdown(made))
    assert HARM not in outside


def test_the_page_has_a_curve_per_class_and_a_bar_per_input() -> None:
    page = card_page(card("multiclass"))
    assert page.count('class="line c2"') == 2  # ROC and PR of the third class
    assert page.count('<rect class="column c0"') > 3


def test_the_area_under_the_drawn_curve_is_the_metric() -> None:
    generator = np.random.default_rng(2)
    y = (generator.random(5_000) < 0.3).astype(float)
    scores = np.clip(0.3 * y + 0.7 * generator.random(5_000), 0, 1)
    from perennial.rules.metrics import evaluate

    (roc,), (pr,) = roc_curves(y, scores, []), pr_curves(y, scores, [])
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(evaluate("roc_auc", y, scores), abs=2e-3)
    assert np.trapezoid(pr.y, pr.x) == pytest.approx(evaluate("pr_auc", y, scores), abs=1e-2)
    bins = calibration_bins(y, scores)
    error = sum(each.rows * abs((each.told or 0) - (each.found or 0)) for each in bins) / 5_000
    assert error == pytest.approx(evaluate("calibration_error", y, scores))


def test_one_class_draws_no_curve() -> None:
    assert roc_curves(np.zeros(9), np.linspace(0, 1, 9), []) == []
    assert pr_curves(np.zeros(9), np.linspace(0, 1, 9), []) == []
