"""The server's own paths of the Open Inference Protocol: what it is, whether it lives, which models it has.

One small application at /v2 beside one for each pipeline at /v2/models/<name>: the proxy sends the longest path first,
so no request for a model comes through here, unless there is no such model. docs/decisions/0040-one-hop.md.
"""

import logging
import time
from pathlib import Path
from typing import Any

import anyio
import orjson
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from perennial import __version__
from perennial.lakehouse.secrets import SecretRef
from ray_jobs.serve.clients import Clients
from ray_jobs.serve.inference_protocol import EXTENSIONS
from ray_jobs.serve.pages import RootWithoutSlash

NAME = "open-inference"  # with a dash, as a probe's: no pipeline's name has one
logger = logging.getLogger("ray.serve")
STATUS_SECONDS = 1.0
ANSWER_SECONDS = 2.0
_AWAY = "Serve's controller does not answer, so it is not known which models are ready; models answer meanwhile."


class Server:
    """The class behind the deployment."""

    def __init__(self, operator: SecretRef, secrets_dir: Path | None) -> None:
        self._clients = Clients(operator, secrets_dir)
        self._models: dict[str, bool] | None = None
        self._looked_at = 0.0

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Serve once the constructor is done."""
        app = Starlette(
            routes=[
                Route("/", self._metadata),
                Route("/health/live", self._live),
                Route("/health/ready", self._ready),
                Route("/repository/index", self._index, methods=["POST"]),
                Route("/{path:path}", self._nothing, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
            ]
        )
        return RootWithoutSlash(app)

    async def _metadata(self, request: Request) -> Response:
        return _json({"name": "perennial", "version": __version__, "extensions": EXTENSIONS})

    async def _live(self, request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, request: Request) -> Response:
        models = await self._look()
        if models is None:
            return _json({"ready": False, "error": _AWAY}, 503)
        ready = bool(models) and all(models.values())
        return _json({"ready": ready}, 200 if ready else 400)  # the protocol's code for no

    async def _index(self, request: Request) -> Response:
        if self._clients.who(request.headers.get("authorization", "").encode("latin-1")) is None:
            return _json({"error": "send the header 'Authorization: Bearer <token>'."}, 401)
        models = await self._look()
        if models is None:
            return _json({"error": _AWAY}, 503)
        return _json([{"name": n, "state": "READY" if ready else "UNAVAILABLE"} for n, ready in models.items()])

    async def _nothing(self, request: Request) -> Response:
        path = f"/v2/{request.path_params['path']}"[:200]
        return _json({"error": f"there is nothing at {path}: no model of this name is served here."}, 404)

    async def _look(self) -> dict[str, bool] | None:
        """The pipelines' applications, and whether each answers: asked of Serve once a second at most; None: it is away."""
        if time.monotonic() - self._looked_at > STATUS_SECONDS:
            self._models = await _ask_serve()
            self._looked_at = time.monotonic()
        return self._models


async def _ask_serve() -> dict[str, bool] | None:
    try:
        with anyio.fail_after(ANSWER_SECONDS):  # Serve itself waits for its controller without a limit
            applications = (await anyio.to_thread.run_sync(serve.status, abandon_on_cancel=True)).applications
    except (RayError, RayServeException, TimeoutError) as error:
        logger.warning("Serve's controller does not say what is served: %s: %s", type(error).__name__, error)
        return None
    return {
        name: application.status == ApplicationStatus.RUNNING
        for name, application in sorted(applications.items())
        if "-" not in name
    }


def deploy_server(operator: SecretRef, secrets_dir: Path | None) -> None:
    """Let the server's own paths be answered, if nobody does yet."""
    found = serve.status().applications.get(NAME)
    if found is not None and found.status in (ApplicationStatus.RUNNING, ApplicationStatus.DEPLOYING):
        return
    deployment = serve.deployment(
        name="server",
        ray_actor_options={"num_cpus": 0},
        logging_config={"encoding": "JSON", "enable_access_log": False, "log_level": "WARNING"},
    )
    application = deployment(serve.ingress()(Server)).bind(operator, secrets_dir)
    serve.run(application, name=NAME, route_prefix="/v2")


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
