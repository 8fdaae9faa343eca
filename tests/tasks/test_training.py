"""What names a training: all that its outcome depends on."""

from pathlib import Path

import pytest

from perennial.lakehouse.lake import Lake
from tasks.training import TrainingPlan, plan_training
from tests.ray_jobs.train.world import AS_OF, FILE, fill_features

OWN = """
def build(preprocessing, outputs):
    from torch import nn

    return nn.LazyLinear(outputs)


def loss(output, target):
    return (output[:, 0] - target) ** POWER


POWER = 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pipelines").mkdir()
    return tmp_path / "pipelines"


def planned(lake: Lake, folder: Path, own: str) -> TrainingPlan:
    declared = FILE.replace('TabularModel("binary", hidden=(32, 32), epochs=3)', 'TorchModel("binary", build, loss)')
    declared = declared.replace("TabularModel", "TorchModel").replace("pipeline = ", own + "\n\npipeline = ")
    (folder / "rides.py").write_text(declared)
    return plan_training.fn(lake, folder, "rides", AS_OF, "a test")


def test_a_network_of_the_pipelines_own_has_a_training_whose_name_follows_its_code(lake: Lake, folder: Path) -> None:
    fill_features(lake, 200)
    first = planned(lake, folder, OWN)
    assert planned(lake, folder, OWN).training_key == first.training_key
    assert planned(lake, folder, OWN.replace("** POWER", "** 4")).training_key != first.training_key
    assert planned(lake, folder, OWN.replace("LazyLinear(outputs)", "LazyLinear(1)")).training_key != first.training_key
