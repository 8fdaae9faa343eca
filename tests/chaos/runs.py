"""Runs of `ingest` that may be killed: children of a process that has imported everything and touched nothing.

What runs is the flow's own code in its own order; its tasks' functions stand in for the tasks, because a task run
wants a Prefect server. Importing takes seconds, so children are forked off a server that has imported and has opened
neither Ray nor S3 nor a catalog, none of which survives a fork.
"""

import faulthandler
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
from prefect.logging.loggers import disable_run_logger
from prefect.tasks import Task

import flows.ingest as flow
import ray_jobs.ingest.stage as staging  # imported before children fork; the task imports it when it runs
from flows.settings import Settings
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import Batch
from tasks.compute import Compute
from tasks.lakehouse import plan_batch
from tasks.refusal import BatchRefused
from tests.shop import NOON

IN_WORKERS = ("read", "transform", "files-half-written")
ON_RAY = (*IN_WORKERS, "files-written")
_server = get_context("forkserver")


@contextmanager
def below_prefect(**instead: Callable[..., Any]) -> Iterator[None]:
    """`flows.ingest` with its tasks' functions; `instead` replaces some of them."""
    tasks = {name: task for name, task in vars(flow).items() if isinstance(task, Task)}
    shown = {name: _show_nothing for name in tasks if name.startswith("show_")}  # artifacts are the server's
    vars(flow).update({name: task.fn for name, task in tasks.items()} | shown | instead)
    try:
        with disable_run_logger():
            yield
    finally:
        vars(flow).update(tasks)


def stage_here(_: Compute, lake: Lake, pipelines: Path, batch: Batch, refused: bool = False) -> staging.StagedBatch:
    """Stage a batch in this process, as Ray's workers would: starting them anew after each kill takes ten seconds."""

    def work(parts: staging.StageParts, hands: list[list[int]]) -> list[dict[str, str]]:
        told = [told for hand in hands for told in parts(pa.table({"parts": [hand]}))]
        return [row for table in told for row in table.to_pylist()]

    request = staging.StageRequest(
        lake=lake, batch=batch, run_id="", committed_at=datetime.now(UTC), pipelines=pipelines, refused=refused
    )
    return staging.stage(request, staging.Workers(2, work))


def _refuse_here(
    compute: Compute, lake: Lake, pipelines: Path, staged: staging.StagedBatch, refusal: str
) -> staging.StagedBatch:
    again = stage_here(compute, lake, pipelines, staged.batch, refused=True)
    return again.model_copy(update={"refusal": refusal, "unreadable": staged.unreadable})


HERE: dict[str, Callable[..., Any]] = {"stage_batch": stage_here, "refuse_batch": _refuse_here}


def run(settings: Settings, on_ray: bool = False, **instead: Callable[..., Any]) -> bool:
    """An ordinary run; whether it brought a batch in, to `raw` or, refused, to `quarantine`.

    Args:
        on_ray: whether Ray's workers stage it, or this process does.
    """
    with below_prefect(**({} if on_ray else HERE), **instead):
        try:
            return any(flow.ingest.fn("shop", "orders", NOON, settings=settings).values())
        except BatchRefused:
            return True


def stage_ahead(settings: Settings) -> str:
    """Plan and stage what is new, as a run does; the staged batch as JSON, for a child to publish."""
    with disable_run_logger():
        batch = plan_batch.fn(settings.lake, settings.pipelines_dir, "shop", "orders", NOON)
        staged = stage_here(settings.compute, settings.lake, settings.pipelines_dir, batch)
    return str(staged.model_dump_json())


def start(
    settings: Settings, fault: str = "", staged: str = "", sent: str = "SIGKILL", on_ray: bool = False
) -> ForkServerProcess:
    """Start a child that runs `ingest`.

    Args:
        fault: where it meets its end, as `PERENNIAL_FAULT`.
        staged: a batch staged ahead: the child plans the same one and publishes this, without Ray.
        sent: the signal it meets there.
        on_ray: whether Ray's workers stage the batch, or the child itself does.
    """
    return spawn(_ingest, settings, fault, staged, sent, on_ray)


def spawn(work: Callable[..., None], *arguments: object) -> ForkServerProcess:
    """Start a child that does some work."""
    # said here and not at import: one server serves a whole test session, and the last to speak before it starts is heard
    _server.set_forkserver_preload([__name__])
    child = _server.Process(target=work, args=arguments)
    child.start()
    return child


def _ingest(settings: Settings, fault: str, staged: str, sent: str, on_ray: bool) -> None:
    faulthandler.register(signal.SIGUSR1)
    os.environ.update(PERENNIAL_FAULT=fault, PERENNIAL_FAULT_SIGNAL=sent)
    if staged:
        batch = staging.StagedBatch.model_validate_json(staged)
        run(settings, True, stage_batch=lambda *_: batch, refuse_batch=_refuse_here)
        return
    if not on_ray:
        run(settings)
        return
    import ray

    # a worker gets its environment from Ray's daemon and not from its driver
    passed = {"PERENNIAL_FAULT": fault, "PERENNIAL_FAULT_DRIVER": str(os.getpid())}
    ray.init(
        address=settings.compute.ray_address,
        namespace="perennial",
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": passed} if fault.partition("@")[0] in IN_WORKERS else None,
    )
    run(settings, True)


def wait_until_stopped(child: ForkServerProcess, seconds: float = 60) -> bool:
    """Whether the child stopped itself; False when it ended before it reached the place."""
    assert child.pid
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(child.pid).status() == psutil.STATUS_STOPPED:
                return True
        except psutil.NoSuchProcess:
            return False
        if not child.is_alive():
            return False
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGUSR1)  # where it stands goes to its standard error
    child.join(2)
    raise TimeoutError(f"child {child.pid} neither stopped nor ended within {seconds} s")


def _show_nothing(*_: object) -> None:
    pass
