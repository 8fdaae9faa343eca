"""Roll-outs of an endpoint that has as many replicas as its load asks for."""

import time
from pathlib import Path

from perennial.lakehouse.stages import make_champion
from perennial.rules.features import pipeline_code_hash
from perennial.spec import load_pipeline
from ray_jobs.serve.config import EndpointConfig, ServeConfig
from ray_jobs.serve.roll import RollReport, RollRequest, ask_replicas, roll
from tests.conftest import S3, empty_lake, free_port
from tests.ray_jobs.serve.load import steady_load
from tests.ray_jobs.serve.replica import FOLDER, ROW
from tests.ray_jobs.serve.world import NOON, fill_raw, register_model

SCALED_SECONDS = 60


def test_replicas_that_load_has_started_stay_when_a_version_is_rolled_out(
    s3: S3, ray_head: str, tmp_path: Path
) -> None:
    (s3.secrets_dir / "serve_token").write_text("sesame")
    lake, pipeline = empty_lake(s3, tmp_path), load_pipeline("trips", FOLDER)
    fill_raw(lake, pipeline)
    versions = [register_model(lake, pipeline, 1, artifact=name) for name in ("one", "two")]
    options = ServeConfig(port=free_port(), log_folder=tmp_path / "log", draining_seconds=1, rollout_seconds=300)
    config = EndpointConfig(
        lake=lake,
        pipeline="trips",
        pipelines=FOLDER,
        code_hash=pipeline_code_hash(pipeline),
        serve=options,
        maximum_replicas=2,
        target_ongoing_requests=0.05,
    )

    def crown(generation: int) -> RollReport:
        version = versions[generation]
        make_champion(
            lake, "trips", version, expected_generation=generation, as_of=NOON, reason="a test",
            decision_id=str(generation),
        )  # fmt: skip
        return roll(RollRequest(endpoint=config, version=version, generation=generation + 1))

    first = crown(0)
    assert (first.failure, first.redeployed, len(first.states)) == (None, True, 1)
    url, headers = f"{options.url}{config.route}/predict", {"authorization": "Bearer sesame"}
    with steady_load(url, ROW, headers, per_second=50) as load:
        deadline = time.monotonic() + SCALED_SECONDS
        while len(before := ask_replicas("trips")) < 2 and time.monotonic() < deadline:
            time.sleep(0.5)
        assert len(before) == 2, f"Serve started no second replica within {SCALED_SECONDS} s"
        second = crown(1)
    assert (second.failure, second.redeployed) == (None, False)
    assert {state.pid for state in second.states} == {state.pid for state in before}
    assert load.failed == []
