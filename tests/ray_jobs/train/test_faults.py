"""Training under kill -9: of a worker, of a node, of the driver. Every run ends in the undisturbed run's weights.

`make test` strikes one training with one of each, `make chaos-train` kills ten workers, five nodes and five drivers, each in a
training of its own and at a random moment.
"""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from perennial.lakehouse.artifacts import WEIGHTS, read_artifact_file
from ray_jobs.train.checkpoints import newest_checkpoint, runs_path
from ray_jobs.train.config import TrainConfig
from ray_jobs.train.fit import FitState
from ray_jobs.train.request import TrainedModel, TrainRequest
from tests.conftest import ROOT, S3, empty_lake
from tests.ray_jobs.train.world import AS_OF, fill_features, write_rides

LONG = os.environ.get("PERENNIAL_CHAOS") == "long"
SEED = os.environ.get("PERENNIAL_CHAOS_SEED") or (secrets.token_hex(4) if LONG else "1")
EPOCHS = 60
MEMORY = 128 * 1024**2
long = pytest.mark.skipif(not LONG, reason="make chaos-train plays it")


class Trial:
    """A cluster of two worker nodes, and trainings of one table on it, each run by a driver of its own."""

    def __init__(self, cluster: Cluster, request: TrainRequest, folder: Path) -> None:
        self.cluster, self.request, self.folder = cluster, request, folder
        self.undisturbed: TrainedModel | None = None

    def drive(self, key: str) -> "subprocess.Popen[bytes]":
        """Start a driver of the training of this key."""
        request = self.request.model_copy(update={"training_key": key})
        (self.folder / f"{key}.request").write_text(request.model_dump_json())
        told = (self.folder / f"{key}.log").open("ab")
        files = [str(self.folder / f"{key}.{kind}") for kind in ("request", "answer")]
        command = [sys.executable, "-m", "tests.ray_jobs.train.driver", self.cluster.address, *files]
        return subprocess.Popen(
            command, cwd=ROOT, stdout=told, stderr=told, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )

    def end(self, key: str, driver: "subprocess.Popen[bytes]") -> TrainedModel:
        """Wait for a driver; the model it trained."""
        code = driver.wait(timeout=240)
        assert code == 0, (self.folder / f"{key}.log").read_text()[-3000:]
        return TrainedModel.model_validate_json((self.folder / f"{key}.answer").read_text())

    def newest(self, key: str) -> FitState | None:
        """The state in the newest complete checkpoint."""
        return newest_checkpoint(self.request.lake.files(), f"{runs_path(self.request.lake)}/{key}")

    def weights(self, model: TrainedModel) -> bytes:
        """The model's file of weights."""
        return read_artifact_file(self.request.lake, "rides", model.artifact_id, model.manifest_sha256, WEIGHTS)

    def worker(self) -> "tuple[psutil.Process, Any] | None":
        """The training worker's process, and the node that it runs on."""
        for node in self.cluster.list_all_nodes():  # type: ignore[no-untyped-call] # Ray's own
            raylet = node.all_processes["raylet"][0].process
            for process in psutil.Process(raylet.pid).children(recursive=True) if raylet.poll() is None else []:
                try:
                    if "RayTrainWorker" in " ".join(process.cmdline()):
                        return process, node
                except psutil.NoSuchProcess:
                    continue
        return None

    def lose_node(self, node: Any) -> None:
        """Kill a node's processes; another one joins. The head stays: its loss is the cluster's."""
        if node is not self.cluster.head_node:
            self.cluster.remove_node(node, allow_graceful=False)
            self.cluster.add_node(num_cpus=2, object_store_memory=MEMORY, wait=True)

    def check(self, key: str, model: TrainedModel, reached: int) -> None:
        """The undisturbed weights and metrics, and no epoch trained again of a checkpoint that was there at the fault."""
        assert self.undisturbed is not None
        assert self.weights(model) == self.weights(self.undisturbed)
        assert model.metrics == self.undisturbed.metrics
        ended = self.newest(key)
        assert ended is not None
        assert all(went_on >= reached for went_on in ended.resumed[-1:]), (reached, ended.resumed)


@pytest.fixture(scope="module")
def trial(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    home = tmp_path_factory.mktemp("faults")
    lake = empty_lake(s3, home)
    pipelines = write_rides(home / "pipelines")
    path = pipelines / "rides.py"
    path.write_text(path.read_text().replace("epochs=3", f"epochs={EPOCHS}"))
    request = TrainRequest(
        lake=lake, pipeline="rides", pipelines=pipelines, training_key="-",
        features_snapshot_id=fill_features(lake), as_of=AS_OF, config=TrainConfig(checkpoint_seconds=0.5),
    )  # fmt: skip
    os.environ["PYTHONPATH"] = str(ROOT)
    temporary = f"/tmp/pt-{secrets.token_hex(3)}"  # noqa: S108 - a socket's path has at most 107 characters
    head = {"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False, "temp_dir": temporary}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=2, object_store_memory=MEMORY, wait=True)
    trial = Trial(cluster, request, home)
    trial.undisturbed = trial.end("undisturbed", trial.drive("undisturbed"))
    yield trial
    cluster.shutdown()  # type: ignore[no-untyped-call] # Ray's own


def epoch_of(state: FitState | None) -> int:
    return state.epoch if state else 0


def wait_for_worker(trial: Trial, driver: "subprocess.Popen[bytes]") -> "tuple[psutil.Process, Any]":
    while driver.poll() is None:
        if found := trial.worker():
            return found
        time.sleep(0.05)
    raise AssertionError("the training ended before its worker was seen")


def play(trial: Trial, name: str, strike: Callable[[Random, str, "subprocess.Popen[bytes]"], int], count: int) -> None:
    """Rounds of one fault, each at a moment that the seed decides."""
    random = Random(f"{SEED}/{name}")
    for number in range(count):
        key = f"{name}-{number}"
        driver = trial.drive(key)
        reached = strike(random, key, driver)
        if driver.poll() is not None and driver.returncode < 0:  # the driver was the victim: a new one
            driver = trial.drive(key)
        trial.check(key, trial.end(key, driver), reached)
        print(f"seed {SEED}: {key} ended as the undisturbed run; struck after epoch {reached} of {EPOCHS}", flush=True)


def wait_for_epoch(trial: Trial, key: str, after: int) -> int:
    """The newest checkpoint's epoch, once it is beyond one."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if (epoch := epoch_of(trial.newest(key))) > after:
            return epoch
        time.sleep(0.1)
    raise AssertionError(f"{key}: no epoch after {after}; {(trial.folder / f'{key}.log').read_text()[-2000:]}")


def wait_for_moment(trial: Trial, key: str, random: Random) -> None:
    """Until a checkpoint of an epoch drawn at random, the beginning among them, and up to half a second more."""
    if epoch := random.randrange(EPOCHS - 10):
        wait_for_epoch(trial, key, epoch - 1)
    time.sleep(random.uniform(0, 0.5))


@long  # until it was seen to pass beside the other tests
@pytest.mark.timeout(390)
def test_one_training_outlives_a_worker_a_node_and_its_driver(trial: Trial) -> None:
    driver = trial.drive("all")
    struck = wait_for_epoch(trial, "all", 0)
    wait_for_worker(trial, driver)[0].kill()
    struck = wait_for_epoch(trial, "all", struck)
    trial.lose_node(wait_for_worker(trial, driver)[1])
    struck = wait_for_epoch(trial, "all", struck)
    driver.kill()
    driver.wait()
    assert struck < EPOCHS, "it had ended before the last blow"
    trial.check("all", trial.end("all", trial.drive("all")), struck)


@long
@pytest.mark.timeout(3_000)
def test_a_killed_worker_is_replaced_and_goes_on(trial: Trial) -> None:
    def strike(random: Random, key: str, driver: "subprocess.Popen[bytes]") -> int:
        process, _ = wait_for_worker(trial, driver)
        wait_for_moment(trial, key, random)
        reached = epoch_of(trial.newest(key))
        if process.is_running():
            process.kill()
        return reached

    play(trial, "worker", strike, 10)


@long
@pytest.mark.timeout(3_000)
def test_a_killed_node_is_done_without(trial: Trial) -> None:
    def strike(random: Random, key: str, driver: "subprocess.Popen[bytes]") -> int:
        _, node = wait_for_worker(trial, driver)
        wait_for_moment(trial, key, random)
        reached = epoch_of(trial.newest(key))
        trial.lose_node(node)
        return reached

    play(trial, "node", strike, 5)


@long
@pytest.mark.timeout(3_000)
def test_a_new_driver_goes_on_where_a_killed_one_was(trial: Trial) -> None:
    def strike(random: Random, key: str, driver: "subprocess.Popen[bytes]") -> int:
        wait_for_worker(trial, driver)
        wait_for_moment(trial, key, random)
        reached = epoch_of(trial.newest(key))
        driver.kill()
        driver.wait()
        return reached

    play(trial, "driver", strike, 5)
