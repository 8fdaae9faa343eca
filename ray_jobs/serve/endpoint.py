"""One replica of a pipeline's endpoint: holds the champion and the joined tables, answers, writes down, follows."""

import hashlib
import logging
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import anyio
import polars as pl
import torch
from ray import serve
from starlette.types import ASGIApp

from perennial.lakehouse.secrets import open_secret
from perennial.rules.features import feature_code_hash, pipeline_code_hash
from perennial.spec import load_pipeline
from ray_jobs.serve.answer_log import AnswerLog
from ray_jobs.serve.answers import Answers
from ray_jobs.serve.application import build_pages
from ray_jobs.serve.config import EndpointConfig
from ray_jobs.serve.keeper import Keeper, ReplicaState, WrongCode
from ray_jobs.serve.rows import RowSchema, read_question
from ray_jobs.serve.trying import Failure, Mirror, Unscorable, log_weight, score

logger = logging.getLogger("ray.serve")
WORKERS = 4  # threads for parsing, features and the forward pass: polars and torch let go of the interpreter


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
        token = open_secret(config.serve.token, config.lake.secrets_dir).get_secret_value()
        self._token = hashlib.sha256(token.encode()).digest()
        self._answers = Answers(config.lake, self._pipeline)
        self._keeper = Keeper(config.lake, self._pipeline, feature_code_hash(self._pipeline), self._answers.try_out)
        self._log = AnswerLog(
            config.lake, config.pipeline, config.serve.log_folder / config.pipeline, config.serve.maximum_log_bytes
        )
        self._mirror = Mirror(self._answers, self._log.append)
        self._replica = uuid.uuid4().hex[:12]
        self._limiter: anyio.CapacityLimiter | None = None
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(self._keeper.refresh, self._pipeline.serving.refresh_seconds)),
            threading.Thread(target=self._repeat, args=(self._log.ship, config.serve.ship_seconds)),
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Serve once the constructor is done: the pages can show what was loaded."""
        return build_pages(self._config, self._token, self)

    @property
    def rows(self) -> RowSchema:
        """What a request's rows look like."""
        return self._answers.schema

    @property
    def example(self) -> dict[str, Any]:
        """A request's body that works."""
        return {"rows": [self._answers.example]}

    async def answer(
        self, body: bytes, request_id: str | None, with_features: bool, sticky_key: str | None = None
    ) -> dict[str, Any]:
        """Scores for the rows of a request's body, written down before this returns.

        Args:
            sticky_key: while a canary answers a share of the requests, all of one key are answered by one version.
        """
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(WORKERS)
        asked = (body, request_id, with_features, sticky_key)
        return await anyio.to_thread.run_sync(self._answer, *asked, limiter=self._limiter)

    def metadata(self) -> dict[str, Any]:
        """What is served, and how fresh."""
        serving, now = self._keeper.current, datetime.now(UTC)
        return {
            "name": self._config.pipeline,
            "version": serving.version.version,
            "generation": serving.stage.generation,
            "trial": self._describe_trial(),
            "replica": self._replica,
            "code_hash": self._config.code_hash,
            "inputs": self.rows.describe(),
            "features": self._answers.inputs,
            "tables": {
                name: {
                    "snapshot_id": str(held.snapshot_id),
                    "rows": held.rows.height,
                    "age_seconds": round((now - held.loaded_at).total_seconds(), 1),
                }
                for name, held in serving.tables.items()
            },
            "refreshed_at": self._keeper.refreshed_at,
            "refresh_problem": self._keeper.problem,
            "log_problem": self._log.problem,
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
        if not all(thread.is_alive() for thread in (*self._threads, self._mirror.thread)):
            raise RuntimeError(f"a background thread of the endpoint of {self._config.pipeline} has died; replace it.")
        self._answers.try_out(self._keeper.current)

    def __del__(self) -> None:
        """Called by Serve after the last request was answered."""
        stopping = getattr(self, "_stopping", None)
        if stopping is not None:
            stopping.set()
            self._mirror.close()
            self._threads[1].join()
            self._log.close()

    def _describe_trial(self) -> dict[str, Any] | None:
        tried = self._keeper.traffic.challenger
        if tried is None:
            return None
        return {"version": tried.trial.version, "stage": tried.trial.stage, "share": tried.trial.share}

    def _answer(
        self, body: bytes, request_id: str | None, with_features: bool, sticky_key: str | None
    ) -> dict[str, Any]:
        started = time.perf_counter()
        traffic = self._keeper.traffic  # once: a swap meanwhile does not touch this request
        question = read_question(body, self._answers.schema, self._pipeline.serving.maximum_rows)
        now = datetime.now(UTC)
        computed = self._answers.compute(question, traffic.champion, now)
        named = question.request_id or request_id or str(uuid.uuid4())
        weight = log_weight(traffic, self._pipeline.serving.log_share, named)
        try:
            scored = score(traffic, computed, sticky_key or named)
        except Unscorable as error:
            latency_ms = (time.perf_counter() - started) * 1000
            self._log_failure(computed, error.failure, named, now, latency_ms)
            raise
        latency_ms = (time.perf_counter() - started) * 1000
        if scored.failed:
            self._log_failure(computed, scored.failed, named, now, latency_ms)
        if weight is not None:
            logged = (computed, scored.scores, scored.serving, named, now, latency_ms, scored.role)
            self._log.append(self._answers.to_log(*logged, weight=weight))
        if traffic.mirrored:
            self._mirror.offer(traffic, computed, named, now, latency_ms)
        answer = {
            "request_id": named,
            "version": scored.serving.version.version,
            "scores": scored.scores.tolist(),
            "tables": {name: str(snapshot_id) for name, snapshot_id in scored.serving.snapshots.items()},
        }
        if classes := scored.serving.scorer.description.classes:
            answer |= {"classes": list(classes), "predicted": [classes[n] for n in scored.scores.argmax(axis=1)]}
        if with_features:
            answer["features"] = computed.select(list(self._answers.inputs)).to_dicts()
        return answer

    def _log_failure(
        self, computed: pl.DataFrame, failure: Failure, named: str, now: datetime, latency_ms: float
    ) -> None:
        log, served = self._answers.to_log, failure.serving
        self._log.append(log(computed, None, served, named, now, latency_ms, failure.role, failure.error))

    def _repeat(self, work: Any, seconds: float) -> None:
        work()  # at once: what a dead replica left behind is shipped now
        while not self._stopping.wait(seconds):
            work()


def application(config: EndpointConfig, replicas: int) -> serve.Application:
    """The Serve application of one pipeline, to be run under the pipeline's name and route."""
    deployment = serve.deployment(
        name="endpoint",
        num_replicas=replicas,
        ray_actor_options={"num_cpus": config.serve.replica_cpus},
        max_ongoing_requests=config.serve.maximum_ongoing_requests,
        max_constructor_retry_count=2,
        # A new replica answers before an old one stops; all at once, because they are few and small.
        max_surge_percent=100,
        rolling_update_percentage=1.0,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=config.serve.draining_seconds,
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )
    return deployment(serve.ingress()(Endpoint)).bind(config)
