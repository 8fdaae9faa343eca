"""Training as it runs: Ray Train and Ray Data on a real head, files on a real S3 server."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import ray

from perennial.lakehouse.artifacts import WEIGHTS, read_artifact_file, read_reference
from perennial.lakehouse.scorers import load_scorer
from ray_jobs.train.checkpoints import runs_path
from ray_jobs.train.config import TrainConfig
from ray_jobs.train.request import TrainedModel, TrainRequest
from ray_jobs.train.train import train
from ray_jobs.train.worker import share
from tests.conftest import S3, empty_lake
from tests.ray_jobs.train.world import AS_OF, INPUTS, LATE_LABELS, fill_features, write_rides

ROWS = 3_000


@pytest.fixture(scope="module")
def request_(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> TrainRequest:
    home = tmp_path_factory.mktemp("train")
    lake = empty_lake(s3, home)
    snapshot = fill_features(lake, ROWS)
    return TrainRequest(
        lake=lake,
        pipeline="rides",
        pipelines=write_rides(home / "pipelines"),
        training_key="first",
        features_snapshot_id=snapshot,
        as_of=AS_OF,
    )


@pytest.fixture(scope="module")
def trained(ray_head: str, request_: TrainRequest) -> TrainedModel:
    return train(request_)


def weights(request: TrainRequest, model: TrainedModel) -> bytes:
    return read_artifact_file(request.lake, "rides", model.artifact_id, model.manifest_sha256, WEIGHTS)


def test_the_model_beats_a_constant_on_rows_it_has_not_seen(trained: TrainedModel) -> None:
    assert trained.metrics["roc_auc"]["low"] > 0.7
    assert trained.metrics["log_loss"]["value"] < trained.metrics["log_loss"]["constant"]


def test_rows_whose_label_came_too_late_are_neither_trained_nor_judged_on(trained: TrainedModel) -> None:
    assert trained.training_rows + trained.validation_rows + trained.holdout_rows == ROWS - LATE_LABELS


def test_the_holdout_is_newer_than_all_that_was_learned_from(trained: TrainedModel) -> None:
    windows = trained.windows
    assert windows.train_start < windows.validation_start < windows.holdout_start < windows.holdout_end
    assert trained.holdout_rows == pytest.approx(ROWS * 5 / 30, rel=0.05)


def test_the_stored_model_scores_rows_with_gaps_and_unseen_values(
    request_: TrainRequest, trained: TrainedModel
) -> None:
    scorer = load_scorer(request_.lake, "rides", trained.artifact_id, trained.manifest_sha256)
    odd = pl.DataFrame({"distance_km": [None, 1e9], "rain": [True, False], "city": ["Atlantis", None]})
    assert ((scorer.score(odd) > 0) & (scorer.score(odd) < 1)).all()
    assert scorer.inputs == INPUTS


def test_the_reference_sample_is_of_the_training_window(request_: TrainRequest, trained: TrainedModel) -> None:
    sample = read_reference(request_.lake, "rides", trained.artifact_id, trained.manifest_sha256)
    assert sample.columns == ["started_at", *INPUTS, "late", "score"]
    assert sample["started_at"].to_list() == sorted(sample["started_at"])
    assert sample["started_at"][-1] < trained.windows.holdout_start


class Holder:
    """Holds the CPUs it is given."""

    def held(self) -> None:
        """Answers when they are held."""


def hold(cpus: float) -> Any:
    return ray.remote(Holder).options(num_cpus=cpus).remote()


def wait_for(line: str, caplog: pytest.LogCaptureFixture) -> None:
    deadline = time.monotonic() + 200
    while line not in caplog.text:
        assert time.monotonic() < deadline, caplog.text
        time.sleep(0.2)


def test_two_workers_train_one_model_and_what_they_wait_for_is_said_once(
    request_: TrainRequest, trained: TrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="ray_jobs")
    config = TrainConfig(workers=2, worker_cpus=0.5)
    few, most = holders = [hold(cpus) for cpus in (0.5, 1.5)]
    ray.get([few.held.remote(), most.held.remote()])
    with ThreadPoolExecutor(1) as beside:
        training = beside.submit(train, request_.model_copy(update={"training_key": "two", "config": config}))
        try:
            wait_for("readers of the training rows wait for 0.5 CPU (0 of the cluster's 2 free)", caplog)
            ray.kill(few)
            wait_for("training workers wait for 1 CPU (0.5 of the cluster's 2 free)", caplog)
            assert not training.done()
        finally:  # a training that waits for ever would keep the test from telling why
            for holder in holders:
                ray.kill(holder)
    assert caplog.text.count(" wait for ") == 2
    together = training.result()
    assert together.params["workers"] == 2
    assert together.row_hash == trained.row_hash
    assert together.metrics["roc_auc"]["value"] == pytest.approx(trained.metrics["roc_auc"]["value"], abs=0.02)
    scorer = load_scorer(request_.lake, "rides", together.artifact_id, together.manifest_sha256)
    assert all(bool(value.isfinite().all()) for value in scorer._net.state_dict().values())


@pytest.mark.parametrize("size", [1, 2, 3])
def test_workers_share_every_row_and_have_as_many_each(size: int) -> None:
    rows = np.arange(100, 200)
    shares = [share(rows, rank, size) for rank in range(size)]
    assert len({len(each) for each in shares}) == 1
    assert set(np.concatenate(shares)) == set(rows)


def test_gpus_are_taken_where_there_is_one_for_each_worker() -> None:
    assert TrainConfig(workers=2).on_gpu(gpus=2)
    assert not TrainConfig(workers=2).on_gpu(gpus=1)
    assert not TrainConfig(device="cpu").on_gpu(gpus=8)
    assert TrainConfig(device="gpu").on_gpu(gpus=0)  # Ray then says that it has none


def test_a_new_driver_goes_on_from_the_last_checkpoint(request_: TrainRequest, trained: TrainedModel) -> None:
    def checkpoints() -> list[str]:
        return sorted(request_.lake.files().glob(f"{runs_path(request_.lake)}/first/epoch-*"))

    before = checkpoints()
    again = train(request_)
    assert checkpoints() == before  # no epoch was left to train
    assert weights(request_, again) == weights(request_, trained)


def test_no_secret_is_among_the_run_s_files(request_: TrainRequest, trained: TrainedModel, s3: S3) -> None:
    known = [path.read_text() for path in s3.secrets_dir.iterdir()]
    folder = Path(s3.folder) / runs_path(request_.lake)
    stored = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert stored
    assert not [secret for secret in known if secret and secret.encode() in stored]
