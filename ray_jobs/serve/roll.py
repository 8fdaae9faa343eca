"""Bring a pipeline's endpoint to the champion the registry names: deployed if need be, and every replica asked.

Runs as a Ray driver. One application a pipeline: nothing here touches another's.
"""

import logging
import time

import httpx
import ray
from pydantic import BaseModel
from ray import serve
from ray.serve.schema import ApplicationStatus

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.secrets import open_secret
from ray_jobs.serve.config import EndpointConfig
from ray_jobs.serve.endpoint import application
from ray_jobs.serve.keeper import ReplicaState
from ray_jobs.serve.server import deploy_server
from ray_jobs.serve.start import ServeNotUp, open_handle, start_serve

logger = logging.getLogger(__name__)
POLL_SECONDS = 0.1
EDGE_ANSWERS = 3
ANSWER_SECONDS = 10.0
DEPLOYMENT = "endpoint"


class RollRequest(BaseModel, frozen=True):
    """What the endpoint is to become.

    Args:
        generation: of the champion in the registry; a replica that serves a later one is as good.
        turn: the step of a trial that every replica is to follow; "": none is to follow any; None: no matter.
    """

    endpoint: EndpointConfig
    version: int
    generation: int
    turn: str | None = None

    @property
    def lake(self) -> Lake:
        """Where a job on a remote cluster finds its request."""
        return self.endpoint.lake


class RollReport(BaseModel, frozen=True):
    """How it went.

    Args:
        redeployed: replicas were replaced, because there were none or they ran other code or settings.
        failure: why the endpoint did not come to the version; what it served before, it serves still.
    """

    states: list[ReplicaState] = []
    redeployed: bool = False
    seconds: float = 0.0
    failure: str | None = None


class _RollFailed(RuntimeError):
    pass


def roll(request: RollRequest) -> RollReport:
    """Make every replica serve the champion's generation; return when each of them, and the proxy, answers with it.

    Running it again changes nothing. A failure is in the report: a replica refused the version, none could start with
    it, or time ran out.
    """
    started = time.monotonic()
    options = request.endpoint.serve
    try:
        start_serve(options)
        deploy_server(options.token, request.endpoint.lake.secrets_dir)
        redeployed = not _is_deployed(request)
        if redeployed:
            _deploy(request)
        deadline = time.monotonic() + options.rollout_seconds  # what it took to start is not the version's fault
        states = _wait_for_replicas(request, deadline)
        _wait_for_proxy(request, deadline)
    except (_RollFailed, ServeNotUp) as error:
        return RollReport(failure=str(error), seconds=time.monotonic() - started)
    return RollReport(states=states, redeployed=redeployed, seconds=time.monotonic() - started)


def _is_deployed(request: RollRequest) -> bool:
    """Whether replicas run with today's code and settings."""
    name = request.endpoint.pipeline
    app = serve.status().applications.get(name)
    if app is None or app.status != ApplicationStatus.RUNNING:
        return False
    deadline = time.monotonic() + ANSWER_SECONDS
    while not (states := ask_replicas(name)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)  # one of them is being replaced; to deploy would replace all
    # However many there are: under load Serve starts more, and one that died it starts again.
    return bool(states) and all(state.deployed_as == request.endpoint.fingerprint for state in states)


def _deploy(request: RollRequest) -> None:
    name = request.endpoint.pipeline
    try:
        serve.run(application(request.endpoint), name=name, route_prefix=request.endpoint.route)
    except RuntimeError as error:  # Serve's own word for it; the constructor's message is in the status
        app = serve.status().applications.get(name)
        said = app.deployments[DEPLOYMENT].message if app and DEPLOYMENT in app.deployments else str(error)
        raise _RollFailed(
            f"no replica of {name} could start with version {request.version}. Replicas that ran before run still. "
            f"Serve says: {said}"
        ) from error


def _wait_for_replicas(request: RollRequest, deadline: float) -> list[ReplicaState]:
    states: list[ReplicaState] = []
    while time.monotonic() < deadline:
        states = ask_replicas(request.endpoint.pipeline)
        for state in states:
            if state.refused_generation is not None and state.refused_generation >= request.generation:
                raise _RollFailed(
                    f"replica {state.replica} refused version {request.version} and goes on with version "
                    f"{state.version}: {state.problem}"
                )
            if request.turn and state.refused_rollout and request.turn.startswith(f"{state.refused_rollout}/"):
                raise _RollFailed(f"replica {state.replica} refused the challenger: {state.problem}")
        if len(states) >= request.endpoint.replicas and all(_follows(state, request) for state in states):
            return states
        time.sleep(POLL_SECONDS)
    raise _RollFailed(
        f"after {request.endpoint.serve.rollout_seconds:.0f} s not every replica of {request.endpoint.pipeline} serves "
        f"version {request.version} (generation {request.generation}): "
        f"{[(state.replica, state.version, state.problem) for state in states] or 'no replica answers'}"
    )


def _follows(state: ReplicaState, request: RollRequest) -> bool:
    shares = request.turn is None or (state.turn or "") == request.turn
    return shares and state.generation >= request.generation


def ask_replicas(name: str) -> list[ReplicaState]:
    """Every replica's state, after it has looked at the registry."""
    try:
        seen = open_handle(name).broadcast("refresh").results(timeout_s=60)
        return [ReplicaState.model_validate_json(state) for state in seen]
    except (ray.exceptions.RayError, TimeoutError) as error:
        logger.info("a replica of %s did not answer: %s", name, error)  # it is being replaced: asked again
        return []


def _wait_for_proxy(request: RollRequest, deadline: float) -> None:
    """Health means doing: clients come through the proxy, so it is asked too, some times in a row."""
    options = request.endpoint.serve
    token = open_secret(options.token, request.endpoint.lake.secrets_dir).get_secret_value()
    url = f"{options.url}{request.endpoint.route}"
    met, last = 0, "no answer"
    with httpx.Client(headers={"authorization": f"Bearer {token}", "connection": "close"}, timeout=10) as client:
        while met < EDGE_ANSWERS and time.monotonic() < deadline:
            try:
                answer = client.get(url)  # each on a connection of its own, so that no one replica answers them all
                last = f"{answer.status_code} {answer.text[:200]}"
                good = answer.status_code == 200 and answer.json()["generation"] >= request.generation
            except httpx.HTTPError as error:
                good, last = False, f"{type(error).__name__}: {error}"
            met = met + 1 if good else 0
            if not good:
                time.sleep(POLL_SECONDS)
    if met < EDGE_ANSWERS:
        raise _RollFailed(
            f"all replicas serve version {request.version}, but the proxy at {url} does not answer with it: {last}"
        )
