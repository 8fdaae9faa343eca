"""What of an endpoint is for reading: the model's metadata after the Open Inference Protocol, readiness, the API page."""

from typing import Annotated, Any, Protocol

import orjson
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from swagger_ui_bundle import swagger_ui_path

from ray_jobs.serve.clients import Clients
from ray_jobs.serve.openapi import describe_questions
from ray_jobs.serve.rows import RowSchema
from ray_jobs.serve.values import say

POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)


class Shown(Protocol):
    """What the pages need of a replica."""

    @property
    def rows(self) -> RowSchema:
        """What a request's rows look like."""

    @property
    def example(self) -> dict[str, Any]:
        """A row that can be sent, as JSON."""

    def metadata(self, version: int | None) -> dict[str, Any] | None:
        """What the replica serves; None: not this version."""


class Unauthorised(Exception):
    """No token, or another one."""


def build_pages(name: str, route: str, clients: Clients | None, replica: Shown) -> ASGIApp:
    """The ASGI application of everything that is no question."""
    app = FastAPI(
        title=f"{name}: predictions by Perennial",
        description="Press *Authorize* and give your token; every request but `ready` and this page needs one.",
        version="2",
        docs_url=None,
        redoc_url=None,
        root_path_in_servers=False,
        servers=[{"url": route}],
    )
    app.openapi_version = "3.0.3"  # the Swagger UI that comes as a package does not know 3.1
    allowed = Depends(_authorise(clients))
    _refuse_politely(app)
    _add_page(app, route)

    @app.get("/", dependencies=[allowed], summary="What is served, and what it takes")
    async def metadata() -> dict[str, Any]:
        return _found(replica.metadata(None), None)

    @app.get("/versions/{version}", dependencies=[allowed], summary="What a version takes")
    async def of_version(version: int) -> dict[str, Any]:
        return _found(replica.metadata(version), version)

    @app.get("/ready", summary="Whether this replica answers")
    async def ready() -> dict[str, Any]:
        return {"ready": True}  # a replica that could not load its version is never reached

    @app.get("/versions/{version}/ready", summary="Whether this replica answers with a version")
    async def version_ready(version: int) -> dict[str, Any]:
        _found(replica.metadata(version), version)
        return {"ready": True}

    def openapi() -> dict[str, Any]:
        page = get_openapi(
            title=app.title, version=app.version, openapi_version=app.openapi_version, description=app.description,
            routes=app.routes, servers=app.servers,
        )  # fmt: skip
        page["paths"] |= describe_questions(replica.rows, replica.example)
        return page

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it
    return RootWithoutSlash(app)


def _found(metadata: dict[str, Any] | None, version: int | None) -> dict[str, Any]:
    if metadata is None:
        raise HTTPException(404, f"version {version} is not served here; leave the version out for the one that is.")
    return metadata


def _add_page(app: FastAPI, route: str) -> None:
    # Swagger UI from its package: FastAPI's own page loads it from a host outside, and stays blank without a network.
    app.mount("/docs/assets", StaticFiles(directory=swagger_ui_path))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        page = get_swagger_ui_html(
            openapi_url=f"{route}/openapi.json",
            title=app.title,
            swagger_js_url=f"{route}/docs/assets/swagger-ui-bundle.js",
            swagger_css_url=f"{route}/docs/assets/swagger-ui.css",
            swagger_favicon_url=f"{route}/docs/assets/favicon-32x32.png",
        )
        page.headers["content-security-policy"] = POLICY
        return page


class RootWithoutSlash:
    """Starlette has no route for the prefix alone and would redirect to the prefix and a slash."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["path"] == scope.get("root_path"):
            scope = {**scope, "path": scope["path"] + "/"}
        await self._app(scope, receive, send)


def _authorise(clients: Clients | None) -> Any:
    bearer = HTTPBearer(auto_error=False)

    async def authorise(
        request: Request, sent: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> None:
        # The header itself: starlette reads it as text, and a token may be any bytes
        header = request.headers.get("authorization", "").encode("latin-1")
        if clients is not None and (sent is None or clients.who(header) is None):
            raise Unauthorised

    return authorise


def _refuse_politely(app: FastAPI) -> None:
    @app.exception_handler(Unauthorised)
    async def unauthorised(request: Request, error: Unauthorised) -> Response:
        detail = "send the header 'Authorization: Bearer <token>' with a token of yours (docs/serving.md)."
        return _json(401, {"error": detail}, {"www-authenticate": "Bearer"})

    @app.exception_handler(RequestValidationError)
    async def misspelt(request: Request, error: RequestValidationError) -> Response:
        sent = say(request.path_params.get("version"))  # the only thing that the pages take
        return _json(404, {"error": f"{sent} is no version; a version is a whole number, such as 3."})

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return _json(error.status_code, {"error": str(error.detail)}, dict(error.headers or {}))


def _json(status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")
