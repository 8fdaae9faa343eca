"""What a challenger is held against, on real rows: above all that no answer knows its own label."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import torch

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.tables import ensure_table
from perennial.rules.description import Architecture, ModelDescription
from perennial.rules.network import TabularNet
from perennial.rules.scoring import Scorer
from perennial.rules.tabular import fit_preprocessing
from perennial.spec import load_pipeline
from ray_jobs.train.judge import JudgeRequest, _last_labels
from tests.ray_jobs.train.world import AS_OF, INPUTS, rows, write_rides


def test_the_last_label_is_an_earlier_rows_and_never_the_rows_own(lake: Lake, tmp_path: Path) -> None:
    folder = write_rides(tmp_path / "pipelines")
    pipeline = load_pipeline("rides", folder)
    table = rows(400).with_columns(_label_known_at=pl.col("_known_at"))  # the label stands on the entity's own row
    identifier = lake.table("rides", "features")
    ensure_table(lake, identifier, table.to_arrow().schema)
    snapshot = append_once(lake, identifier, table.to_arrow(), "all").snapshot_id
    assert snapshot
    fitted, small = fit_preprocessing(table, INPUTS), Architecture(hidden=(4,), dropout=0.0)
    torch.manual_seed(1)
    description = ModelDescription(task="binary", architecture=small, preprocessing=fitted)
    scorer = Scorer(description, TabularNet(fitted, small).state_dict())
    request = JudgeRequest(
        lake=lake, pipeline="rides", pipelines=folder, challenger=1, champion=None, as_of=AS_OF + timedelta(days=9)
    )
    last = _last_labels(request, pipeline, snapshot, table, scorer, 0.25)
    assert last is not None
    assert last.tolist() == [0.25, *table["late"].to_list()[:-1]]
    assert np.isfinite(last).all()
