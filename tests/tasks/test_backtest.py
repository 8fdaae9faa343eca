"""A user's policy says what it means, or is refused before anything is worked out."""

from pathlib import Path
from typing import Any

import pytest

from tasks.backtest import UnknownPolicy, plan_strategies
from tests.ray_jobs.backtest.world import write_offers


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ({"mine": {"alarm": 3}}, r"'mine'.*no field alarm; did you mean alarms\?"),
        ({"mine": {"threshold_of_everything": 3}}, "no field threshold_of_everything; there are maximum_loss_share"),
        ({"mine": {"window": {"lenght": 7}}}, r"no field window.lenght; did you mean window.length\?"),
        ({"mine": {"sample_rows": "many"}}, "sample_rows is 'many'"),
        ({"mine": {"alarms": 4, "of_windows": 3}}, "4 of 3 windows"),
        ({"own": {"alarms": 1}}, "'own'.*there is one of this name already"),
        ({"majority": {}}, "'majority'.*there is one of this name already"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(tmp_path: Path, policies: dict[str, Any], said: str) -> None:
    with pytest.raises(UnknownPolicy, match=rf"(?s){said}.*Nothing was changed"):
        plan_strategies.fn(write_offers(tmp_path / "pipelines"), "offers", policies)


def test_a_policy_is_the_own_one_but_for_what_it_names(tmp_path: Path) -> None:
    found = plan_strategies.fn(write_offers(tmp_path / "pipelines"), "offers", {"mine": {"drift_effect_size": 0.3}})
    own, mine = (next(s.monitoring for s in found if s.name == name) for name in ("own", "mine"))
    assert own is not None
    assert mine is not None
    assert (mine.drift_effect_size, mine.minimum_rows) == (0.3, own.minimum_rows)
