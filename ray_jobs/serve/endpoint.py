"""One replica of a pipeline's endpoint: holds the champion and the joined tables, answers, writes down, follows."""

import logging
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import torch
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from starlette.types import ASGIApp

from perennial.rules.features import feature_code_hash, pipeline_code_hash
from perennial.spec import load_pipeline
from ray_jobs.serve.answer_log import AnswerLog
from ray_jobs.serve.answers import Answers
from ray_jobs.serve.application import Gate
from ray_jobs.serve.batching import Ask, Batcher, Reply
from ray_jobs.serve.clients import Clients
from ray_jobs.serve.config import EndpointConfig
from ray_jobs.serve.inference_protocol import OUTPUT, describe_inputs
from ray_jobs.serve.keeper import Keeper, Loaded, ReplicaState, WrongCode
from ray_jobs.serve.pages import build_pages
from ray_jobs.serve.questions import Questions
from ray_jobs.serve.request_log import RequestLog
from ray_jobs.serve.rows import RowSchema
from ray_jobs.serve.trying import Mirror

logger = logging.getLogger("ray.serve")
REQUEST_LOG_SECONDS = 1.0


class Endpoint:
    """The class behind the deployment. Its constructor raises rather than let a replica serve wrongly."""

    def __init__(self, config: EndpointConfig) -> None:
        torch.set_num_threads(1)
        self._config = config
        self._pipeline = load_pipeline(config.pipeline, config.pipelines)
        code_hash = pipeline_code_hash(self._pipeline)
        if code_hash != config.code_hash:
            raise WrongCode(
                f"the endpoint of {config.pipeline} was deployed with code {config.code_hash}, and "
                f"{config.pipelines}/{config.pipeline}.py on this node is {code_hash}. Bring the node to the same "
                "revision, or roll a version out again to deploy today's code."
            )
        options, serving = config.serve, self._pipeline.serving
        self._replica = uuid.uuid4().hex[:12]
        self._clients = Clients(options.token, config.lake.secrets_dir)
        self._answers = Answers(config.lake, self._pipeline)
        self._keeper = Keeper(config.lake, self._pipeline, feature_code_hash(self._pipeline), self._answers.try_out)
        self._log = AnswerLog(
            config.lake, config.pipeline, options.log_folder / config.pipeline, options.maximum_log_bytes
        )
        path = options.log_folder.parent / "logs" / "requests" / f"{config.pipeline}-{self._replica}.jsonl"
        self._requests = RequestLog(path, config.pipeline)
        self._mirror = Mirror(self._answers, partial(self._log.append, share=0.5))
        questions = Questions(
            self._answers,
            self._keeper,
            self._log,
            self._mirror,
            self._requests,
            serving,
            options.maximum_body_bytes,
        )
        self._batcher = Batcher(
            questions.answer,
            serving.batch_requests,
            serving.batch_wait_seconds,
            options.maximum_ongoing_requests,
            serving.timeout_seconds,
        )
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(self._keeper.refresh, serving.refresh_seconds)),
            threading.Thread(target=self._repeat, args=(self._log.ship, options.ship_seconds)),
            threading.Thread(target=self._repeat, args=(self._requests.flush, REQUEST_LOG_SECONDS)),
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Serve once the constructor is done: the pages can show what was loaded."""
        options = self._config.serve
        pages = build_pages(self._config.pipeline, self._config.route, self._clients, self)
        return Gate(self, self._clients, options.maximum_body_bytes, self._pipeline.serving.timeout_seconds, pages)

    @property
    def rows(self) -> RowSchema:
        """What a request's rows look like."""
        return self._answers.schema

    @property
    def example(self) -> dict[str, Any]:
        """A row that can be sent, as JSON."""
        return self._answers.example

    async def answer(self, ask: Ask) -> Reply:
        """The request's reply, written down before this returns."""
        return await self._batcher.submit(ask)

    def refused(self, ask_id: str, client: str, status: int) -> None:
        """Note a request that was refused before it was read."""
        self._requests.add([{"request_id": ask_id, "client": client, "version": None, "status": status}])

    def metadata(self, version: int | None = None) -> dict[str, Any] | None:
        """What is served, after the Open Inference Protocol, and how fresh it is; None: not this version."""
        serving, now = self._keeper.current, datetime.now(UTC)
        if version is not None:
            loaded = self._keeper.loaded(version)
            if loaded is None:
                return None
            serving = loaded
        classes = serving.scorer.description.classes
        return {
            "name": self._config.pipeline,
            "versions": [str(held) for held in self._keeper.versions] if version is None else [str(version)],
            "platform": "perennial",
            "inputs": describe_inputs(self.rows),
            "outputs": [{"name": OUTPUT, "datatype": "FP64", "shape": [-1, *([len(classes)] if classes else [])]}],
            **({"classes": list(classes)} if classes else {}),  # of the output's second dimension, in its order
            "version": serving.version.version,
            "generation": serving.stage.generation,
            "trial": self._describe_trial(),
            "replica": self._replica,
            "code_hash": self._config.code_hash,
            "rows": self.rows.describe(),
            "checks": self._answers.checks.names,
            "features": self._answers.inputs,
            "tables": {name: self._describe_table(name, loaded, now) for name, loaded in serving.tables.items()},
            "refreshed_at": self._keeper.refreshed_at,
            "refresh_problem": self._keeper.problem,
            "log_problem": self._log.problem,
            "request_log_problem": self._requests.problem,
        }

    async def refresh(self) -> str:
        """Look at the registry now rather than at the next turn; return this replica's state as JSON."""
        await anyio.to_thread.run_sync(self._keeper.refresh)
        return self.state().model_dump_json()

    async def ship(self) -> int:
        """Ship answered rows now rather than at the next turn; return how many went."""
        return await anyio.to_thread.run_sync(self._log.ship)

    def state(self) -> ReplicaState:
        """What this replica serves."""
        return self._keeper.state(self._replica, self._config.fingerprint)

    def check_health(self) -> None:
        """Health means doing: the threads live and a row is scored. Called by Serve."""
        if not all(thread.is_alive() for thread in (*self._threads, *self._batcher.threads, self._mirror.thread)):
            raise RuntimeError(f"a background thread of the endpoint of {self._config.pipeline} has died; replace it.")
        self._answers.try_out(self._keeper.current)

    def __del__(self) -> None:
        """Called by Serve after the last request was answered."""
        stopping = getattr(self, "_stopping", None)
        if stopping is not None:
            stopping.set()
            self._batcher.close()
            self._mirror.close()
            self._threads[1].join()
            self._log.close()
            self._requests.flush()

    def _describe_table(self, name: str, loaded: Loaded, now: datetime) -> dict[str, Any]:
        age, bound = loaded.age(now), self._pipeline.serving.freshness.get(name)
        return {
            "snapshot_id": str(loaded.snapshot_id),
            "rows": loaded.rows,
            "age_seconds": round((now - loaded.loaded_at).total_seconds(), 1),
            "newest_known_seconds": None if age is None else round(age.total_seconds(), 1),
            "freshness_seconds": None if bound is None else bound.total_seconds(),
            "stale": bound is not None and (age is None or age > bound),
        }

    def _describe_trial(self) -> dict[str, Any] | None:
        tried = self._keeper.traffic.challenger
        if tried is None:
            return None
        return {"version": tried.trial.version, "stage": tried.trial.stage, "share": tried.trial.share}

    def _repeat(self, work: Callable[[], Any], seconds: float) -> None:
        while True:  # at once: what a dead replica left behind is shipped now
            try:
                work()
            except Exception:  # the next turn may go well, and a thread that ends takes its replica along
                logger.exception(
                    "%s failed for %s; it is tried again in %s s", work.__qualname__, self._config.pipeline, seconds
                )
            if self._stopping.wait(seconds):
                return


def application(config: EndpointConfig) -> serve.Application:
    """The Serve application of one pipeline, to be run under the pipeline's name and route."""
    options = config.serve
    scaling: dict[str, Any] = {"num_replicas": config.replicas}
    if config.maximum_replicas > config.replicas:
        autoscaling = AutoscalingConfig(
            min_replicas=config.replicas,
            max_replicas=config.maximum_replicas,
            target_ongoing_requests=config.target_ongoing_requests,
            upscale_delay_s=5,
            downscale_delay_s=60,
        )
        scaling = {"autoscaling_config": autoscaling}
    deployment = serve.deployment(
        name="endpoint",
        **scaling,
        ray_actor_options={"num_cpus": options.replica_cpus},
        # Ours refuses first, by the same number; Serve's limit stands for whatever reaches no worker.
        max_ongoing_requests=2 * options.maximum_ongoing_requests,
        max_queued_requests=options.maximum_ongoing_requests,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        max_constructor_retry_count=2,
        # A new replica answers before an old one stops; all at once, because they are few and small.
        max_surge_percent=100,
        rolling_update_percentage=1.0,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=options.draining_seconds,
        logging_config={"encoding": "JSON", "enable_access_log": False, "log_level": "WARNING"},
    )
    return deployment(serve.ingress()(Endpoint)).bind(config)
