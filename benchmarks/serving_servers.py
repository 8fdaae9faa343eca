"""Servers that the endpoint is measured beside: `python -m benchmarks.serving_servers NAME PORT FOLDER`.

Each answers `POST` of one row with one score. Those of the environment `.venv-peers-serving` score with the same
weights, by the same Scorer, read from FOLDER.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any


def fastapi_noop(port: int, folder: Path) -> None:
    """Uvicorn and FastAPI with nothing behind: what a request costs at least in this language."""
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI()

    @app.post("/predict")
    async def predict(body: dict[str, Any]) -> dict[str, Any]:
        return {"scores": [0.0]}

    uvicorn.run(app, port=port, log_level="warning", access_log=False)


def fastapi_model(port: int, folder: Path) -> None:
    """The same model behind FastAPI: the same features and scorer, a request at a time, in its thread pool."""
    import uvicorn
    from fastapi import FastAPI, Request

    from benchmarks.serving_world import PIPELINES, now
    from perennial.lakehouse.lake import Lake
    from perennial.rules.features import feature_code_hash
    from perennial.spec import load_pipeline
    from ray_jobs.serve.answers import Answers
    from ray_jobs.serve.keeper import Keeper
    from ray_jobs.serve.rows import read_rows

    lake = Lake.model_validate_json((folder / "lake.json").read_text())
    pipeline = load_pipeline("houses", PIPELINES)
    answers = Answers(lake, pipeline)
    keeper = Keeper(lake, pipeline, feature_code_hash(pipeline), answers.try_out)
    app = FastAPI()

    def score(body: bytes) -> list[float]:
        rows = answers.read([read_rows(body, 10_000, answers.schema)])
        return list(keeper.current.scorer.score(answers.compute(rows, keeper.current, now())).tolist())

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        from starlette.concurrency import run_in_threadpool

        return {"scores": await run_in_threadpool(score, await request.body())}

    uvicorn.run(app, port=port, log_level="warning", access_log=False)


def ours_noop(port: int, folder: Path) -> None:
    """Our way in and batching behind HAProxy and Serve, with a no-op model: token, validation and log off."""
    from ray import serve

    from benchmarks.serving_world import ray_with_serve

    with ray_with_serve(port):
        from benchmarks.serving_noop import NoopEndpoint

        deployment = serve.deployment(
            name="endpoint", max_ongoing_requests=400, ray_actor_options={"num_cpus": 0.1},
            logging_config={"enable_access_log": False, "log_level": "WARNING"},
        )  # fmt: skip
        serve.run(deployment(serve.ingress()(NoopEndpoint)).bind(), name="houses", route_prefix="/v2/models/houses")
        _stay()


def ours(port: int, folder: Path) -> None:
    """The endpoint as it is: token, validation, contract, features, model, both logs."""
    from benchmarks.serving_world import endpoint_config, ray_with_serve, roll_out
    from perennial.lakehouse.lake import Lake

    lake = Lake.model_validate_json((folder / "lake.json").read_text())
    with ray_with_serve(port):
        roll_out(lake, endpoint_config(lake, folder, port))
        _stay()


def ray_defaults(port: int, folder: Path) -> None:
    """Ray Serve as it comes, with FastAPI and nothing behind."""
    from fastapi import FastAPI
    from ray import serve

    from benchmarks.serving_world import ray_with_serve

    app = FastAPI()

    @serve.deployment
    @serve.ingress(app)
    class Noop:
        @app.post("/predict")
        async def predict(self, body: dict[str, Any]) -> dict[str, Any]:
            return {"scores": [0.0]}

    with ray_with_serve(port, haproxy=False):
        serve.run(Noop.bind(), name="noop", route_prefix="/")
        _stay()


def bare_scorer(folder: Path) -> Any:
    from safetensors.torch import load_file

    from perennial.rules.description import ModelDescription
    from perennial.rules.scoring import Scorer

    description = ModelDescription.model_validate_json((folder / "model.json").read_text())
    return Scorer(description, load_file(folder / "weights.safetensors"))


def frame_of(rows: list[dict[str, Any]]) -> Any:
    import polars as pl

    return pl.DataFrame(rows)


def litserve(port: int, folder: Path) -> None:
    """LitServe with batching, one worker."""
    from benchmarks.serving_litserve import run

    run(port, folder)


def bentoml(port: int, folder: Path) -> None:
    """BentoML with adaptive batching, one worker."""
    service = folder / "service.py"
    service.write_text(BENTO.format(folder=str(folder)))
    program = str(Path(sys.executable).with_name("bentoml"))
    arguments = ["serve", "service:Model", "--port", str(port), "--host", "127.0.0.1", "--working-dir", str(folder)]
    os.execv(program, [program, *arguments])  # noqa: S606


BENTO = """
from pathlib import Path
import bentoml
from benchmarks.serving_servers import bare_scorer, frame_of

@bentoml.service(workers=1, logging={{"access": {{"enabled": False}}}})
class Model:
    def __init__(self):
        self.scorer = bare_scorer(Path("{folder}"))

    @bentoml.api(batchable=True, max_batch_size=64, route="/predict")
    def predict(self, rows: list[dict]) -> list[float]:
        return self.scorer.score(frame_of(rows)).tolist()
"""


def mlflow(port: int, folder: Path) -> None:
    """`mlflow models serve`, as its documentation starts it: one worker, the environment it is in."""
    import mlflow.pyfunc

    os.environ["PERENNIAL_BENCH_FOLDER"] = str(folder)
    path = folder / "mlflow"
    script = folder / "mlflow_model.py"
    script.write_text(MLFLOW.format(folder=str(folder)))
    if not path.exists():
        mlflow.pyfunc.save_model(path=str(path), python_model=str(script))
    program = str(Path(sys.executable).with_name("mlflow"))
    arguments = ["models", "serve", "-m", str(path), "-p", str(port), "--env-manager", "local", "-w", "1"]
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.execv(program, [program, *arguments])  # noqa: S606


MLFLOW = """
from pathlib import Path
import mlflow.pyfunc
import polars as pl
from benchmarks.serving_servers import bare_scorer

class Model(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.scorer = bare_scorer(Path("{folder}"))

    def predict(self, context, model_input, params=None):
        return self.scorer.score(pl.from_pandas(model_input)).tolist()

mlflow.models.set_model(Model())
"""


def _stay() -> None:
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    globals()[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))
