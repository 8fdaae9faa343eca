"""What is said of a version that was trained again."""

from perennial.rules.rebuilt import Difference, diff_metrics, diff_text, diff_values, judge_rebuild

LOCK = Difference(what="package torch", then="2.12.0", now="2.13.0")
WEIGHTS = Difference(what="the weights", then="aa", now="bb")


def test_the_same_outcome_is_reproduced_and_says_what_changed_all_the_same() -> None:
    assert judge_rebuild([], []).reason == "the same rows, metrics and weights, bit for bit"
    found = judge_rebuild([LOCK], [])
    assert (found.verdict, "package torch changed since" in found.reason) == ("reproduced", True)


def test_another_outcome_names_its_possible_causes_or_that_there_is_none() -> None:
    found = judge_rebuild([LOCK], [WEIGHTS])
    assert (found.verdict, found.reason) == ("differs", "the weights came out otherwise; package torch changed since")
    assert "the training itself does not repeat" in judge_rebuild([], [WEIGHTS]).reason


def test_packages_that_came_went_and_changed_are_named() -> None:
    found = diff_values("package", {"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "1"})
    assert [(each.what, each.then, each.now) for each in found] == [
        ("package b", "1", "2"), ("package c", "1", None), ("package d", None, "1"),
    ]  # fmt: skip


def test_a_metric_differs_beyond_a_billionth_and_one_that_is_new_does_not() -> None:
    told = {"value": 0.7, "low": 0.6, "high": None}
    assert diff_metrics({"auc": told, "rows": 3}, {"auc": told | {"value": 0.7 + 1e-12}, "f1": told, "rows": 3}) == []
    (found,) = diff_metrics({"auc": told}, {"auc": told | {"low": 0.61}})
    assert found.what == "metric auc"


def test_a_long_difference_of_texts_is_cut() -> None:
    text = diff_text("\n".join(f"a{n}" for n in range(500)), "\n".join(f"b{n}" for n in range(500)))
    assert len(text.splitlines()) == 201
    assert text.splitlines()[-1].endswith("lines more")
