"""Where heavy work runs: a function of `ray_jobs`, in this process beside a local Ray, or as a job on a remote cluster."""

import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from prefect import get_run_logger
from prefect.exceptions import ExternalSignal, MissingContextError
from prefect.runtime import flow_run
from pydantic import BaseModel

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.secrets import SecretRef, open_secret

Request = TypeVar("Request", bound=BaseModel)
Result = TypeVar("Result", bound=BaseModel)
POLL_SECONDS = 1.0
CLOCK_FIELDS = {"committed_at"}  # of a request: a restarted run asks for the same work at a later time

for _ours in ("perennial", "ray_jobs"):  # PREFECT_LOGGING_EXTRA_LOGGERS sends them to the run's log; the root's level
    logging.getLogger(_ours).setLevel(logging.INFO)  # would hold back their progress: epochs, waits


class Compute(BaseModel, frozen=True):
    """Where Ray is. `jobs_address`: the Jobs API of a remote cluster; None: this machine's head, at `ray_address`."""

    ray_address: str
    jobs_address: str | None = None
    token_secret: SecretRef | None = None
    secrets_dir: Path | None = None
    serve_host: str = "127.0.0.1"
    serve_port: int = 8000


class RayJobFailed(RuntimeError):
    """A job on the remote cluster ended without a result; its log is in the flow run."""


def run_job(compute: Compute, job: Callable[[Request], Result], request: Request, *, spreads: bool = True) -> Result:
    """Run a job and return its result.

    Args:
        spreads: whether the job's own code uses Ray; one that does not costs no connection beside a local Ray.

    Against a remote cluster the job runs under `<flow run>-<job>-<request>-<attempt>`; a flow that was restarted finds
    it there. Cancelling the flow run, or its time running out, stops it.

    Raises:
        RayJobFailed: the remote job failed; its last lines are in the message.
    """
    if compute.jobs_address is None:
        if spreads:
            connect(compute)
        return job(request)
    return _run_remote(compute, job, request)


def connect(compute: Compute) -> None:
    """Become a driver of the Ray head that the settings name, and never of another one on this machine."""
    import ray

    _authenticate(compute)
    if not ray.is_initialized():
        ray.init(
            address=compute.ray_address,
            namespace="perennial",
            log_to_driver=True,
            logging_level=logging.WARNING,
            configure_logging=False,
        )
        from ray.data import DataContext

        # Ray Data's bars and plans are for terminals; a run's log has one line per event that matters
        DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)


def _authenticate(compute: Compute) -> None:
    if compute.token_secret:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = open_secret(compute.token_secret, compute.secrets_dir).get_secret_value()


def _run_remote(compute: Compute, job: Callable[[Request], Result], request: Request) -> Result:
    from ray.job_submission import JobStatus

    lake, client = _lake_of(request), _jobs_client(compute)
    name, attempt = _job_name(job, request), 1
    while (status := _status(client, job_id := f"{name}-{attempt}")) in ("FAILED", "STOPPED"):
        attempt += 1
    asked, answered = lake.uri(f"jobs/{job_id}/request.json"), lake.uri(f"jobs/{job_id}/result.json")
    try:
        if status is None:
            lake.files().pipe_file(asked, request.model_dump_json().encode())
            entrypoint = f"python -m ray_jobs {job.__module__}:{job.__name__} {asked} {answered}"
            client.submit_job(
                entrypoint=entrypoint, submission_id=job_id, runtime_env={"env_vars": _lake_environment(lake)}
            )
        _follow(client, job_id)
    except (KeyboardInterrupt, SystemExit, ExternalSignal, TimeoutError):  # cancelled, or past the task's time
        if _status(client, job_id):
            client.stop_job(job_id)
        raise
    if client.get_job_status(job_id) != JobStatus.SUCCEEDED:
        raise RayJobFailed(
            f"Ray job {job_id} ended {client.get_job_status(job_id)}: {client.get_job_info(job_id).message} Last lines:\n"
            f"{client.get_job_logs(job_id)[-1000:]}\nWhat it had committed stands; running the flow again goes on from there."
        )
    result: type[Result] = get_type_hints(job)["return"]
    return result.model_validate_json(lake.files().cat_file(answered))


def _jobs_client(compute: Compute) -> Any:
    from ray.job_submission import JobSubmissionClient

    # By header, not by environment: Ray reads its own once per process, and this one may have joined another cluster.
    token = open_secret(compute.token_secret, compute.secrets_dir).get_secret_value() if compute.token_secret else None
    return JobSubmissionClient(compute.jobs_address, headers={"Authorization": f"Bearer {token}"} if token else None)


def _job_name(job: Callable[[Request], Result], request: Request) -> str:
    """One name for one piece of work in a flow run: a run stages several sources, and a restarted one finds each again."""
    asked = hashlib.sha256(request.model_dump_json(exclude=CLOCK_FIELDS).encode()).hexdigest()[:8]
    return f"{flow_run.id or 'local'}-{job.__name__.replace('_', '-')}-{asked}"


def _lake_of(request: BaseModel) -> Lake:
    lake = getattr(request, "lake", None)
    if not isinstance(lake, Lake):
        raise TypeError(f"{type(request).__name__} has no `lake`: a remote job's request and result travel through it.")
    return lake


def _lake_environment(lake: Lake) -> dict[str, str]:
    # names and places only: a secret in a runtime environment is readable by whoever reads the Jobs API
    return {"PERENNIAL_JOB_LAKE": lake.model_dump_json()}


def _status(client: Any, job_id: str) -> str | None:
    try:
        return str(client.get_job_status(job_id).value)
    except RuntimeError as error:  # the client's only error; an unknown id is a 404
        if "does not exist" in str(error) or "404" in str(error):
            return None
        raise


def _follow(client: Any, job_id: str) -> None:
    seen = 0
    while True:
        ended = client.get_job_status(job_id).is_terminal()
        log = client.get_job_logs(job_id)
        *lines, rest = log[seen:].split("\n")
        for line in lines:
            _log(line)
        seen = len(log) - len(rest)
        if ended:
            if rest:
                _log(rest)
            return
        time.sleep(POLL_SECONDS)


def _log(line: str) -> None:
    try:
        get_run_logger().info("%s", line)
    except MissingContextError:  # called outside of a run
        print(line)
