"""One real Evidently run over small samples; the page is taken apart as a browser would."""

import json
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from perennial.rules.evidence import Check, Evidence, Performance, with_outcomes
from perennial.spec import Monitoring
from ray_jobs.drift.report import Judged, judge_samples
from ray_jobs.drift.window import sample_evenly

INPUTS = {"wind": "number", "hour": "number", "carrier": "category"}
HOSTILE = "</script><script>alert(1)</script>"


def sample(shift: float = 0.0, carriers: str = "AB", rows: int = 600) -> pl.DataFrame:
    random = np.random.default_rng(3 if shift else 2)
    return pl.DataFrame(
        {
            "wind": random.normal(shift, 1, rows),
            "hour": random.integers(0, 24, rows),
            "carrier": random.choice(list(carriers), rows),
            "score": random.random(rows),
        }
    )


def judge(current: pl.DataFrame, **figures: object) -> Judged:
    seen = {"version": 1, "rows": 5_000, "labelled_rows": 5_000, "missing": {"wind": 0.0}} | figures
    return judge_samples(current, sample(), INPUTS, Evidence.model_validate(seen), Monitoring())  # type: ignore[arg-type]  # kinds are literals


def test_no_shift_passes_every_test() -> None:
    evidence = judge(sample(shift=0.01)).evidence
    assert [test.name for test in evidence.tests if not test.passed] == []
    assert set(evidence.sample_drift) == set(INPUTS)


def test_drift_is_an_effect_size_and_does_not_grow_with_the_number_of_rows() -> None:
    few, many = (judge(sample(shift=0.5, rows=rows)).evidence.sample_drift["wind"] for rows in (500, 20_000))
    assert few == pytest.approx(0.5, abs=0.15)
    assert many == pytest.approx(0.5, abs=0.1)


def test_our_figures_are_tested_by_evidently_in_the_same_report() -> None:
    behind = Performance(metric="roc_auc", promised=0.72, measured=0.66, low=0.65, high=0.67)
    evidence = judge(sample(), performance=behind, rows=100).evidence
    assert {check for check in Check if evidence.fails(check)} == {
        Check.ROWS,
        Check.LOSS,
        Check.CERTAIN_LOSS,
        Check.SURE_LOSS,
    }


def test_most_inputs_drifting_fails_the_share_of_drifted_inputs() -> None:
    shifted = sample(shift=1.0, carriers="XY")
    assert judge(shifted).evidence.fails(Check.DRIFT)


def test_full_data_scores_are_tests_of_the_same_report_and_a_disagreement_is_said() -> None:
    full = {"drift": {"wind": 0.4, "hour": 0.0}, "drift_bounds": {"wind": 0.1, "hour": 0.1}}
    evidence = judge(sample(), **full).evidence
    outcomes = {test.name: test.passed for test in evidence.tests}
    assert outcomes["Drift on all rows: wind"] is False
    assert outcomes["Drift on all rows: hour"] is True
    assert evidence.disagreements == ["wind"]


def test_the_outcomes_are_the_same_without_evidently() -> None:
    behind = Performance(metric="roc_auc", promised=0.72, measured=0.69, low=0.68, high=0.70)
    drift = {"drift": {"wind": 0.4, "hour": 0.0}, "drift_bounds": {"wind": 0.1, "hour": 0.1}}
    for figures in (
        {"performance": behind},
        {"rows": 3},
        {"missing": {"wind": 0.9}},
        {"broken": {"wind": "stuck"}},
        drift,
    ):
        judged = judge(sample(), **figures).evidence
        pure = {test.name: test.passed for test in with_outcomes(judged, Monitoring()).tests}
        assert pure == {test.name: test.passed for test in judged.tests if test.name in pure}


def test_a_column_without_values_is_left_to_its_figure() -> None:
    gone = sample().with_columns(wind=pl.lit(None, dtype=pl.Float64))
    evidence = judge(gone, missing={"wind": 1.0}).evidence
    assert "wind" not in evidence.sample_drift
    assert evidence.fails(Check.MISSING)
    assert evidence.broken_inputs == ["wind"]


def test_an_empty_window_still_has_a_report() -> None:
    evidence = judge(sample().clear(), rows=0, labelled_rows=0, missing={}).evidence
    assert evidence.fails(Check.ROWS)
    assert evidence.sample_drift == {}


def test_hostile_text_in_the_data_stays_text() -> None:
    hostile = sample().with_columns(carrier=pl.lit(HOSTILE))
    page = judge(hostile).page
    scripts = Scripts(page)
    assert scripts.inline == []
    assert all(source.startswith("../../_static/evidently-") for source in scripts.sources)
    assert HOSTILE in json.dumps(scripts.data, ensure_ascii=False)
    assert "default-src 'none'; script-src 'self'" in page


def test_a_report_is_small() -> None:
    assert len(judge(sample(shift=0.1)).page) < 400_000


def test_a_sample_has_its_share_of_every_day_and_is_the_same_each_time() -> None:
    rows = pl.DataFrame({"day": np.repeat(np.arange(30), 1_000)})
    drawn = sample_evenly(rows, 300, seed=1)
    assert drawn.equals(sample_evenly(rows, 300, seed=1))
    assert not drawn.with_row_index().equals(sample_evenly(rows.with_row_index(), 300, seed=2))
    assert drawn.group_by("day").len()["len"].unique().to_list() == [10]


class Scripts(HTMLParser):
    """The scripts of a page: code in it, files it names, and the data."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.sources: list[str] = []
        self.data: object = None
        self._kind = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self._kind = "" if tag != "script" else "file" if "src" in named else named.get("type") or "code"
        if self._kind == "file":
            self.sources.append(str(named["src"]))

    def handle_endtag(self, tag: str) -> None:
        self._kind = ""

    def handle_data(self, data: str) -> None:
        if self._kind == "application/json":
            self.data = json.loads(data)
        elif self._kind == "code":
            self.inline.append(data)
