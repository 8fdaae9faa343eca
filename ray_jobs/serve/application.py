"""The pages of one pipeline's endpoint: what may be asked, by whom, and how an answer or a refusal looks."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Protocol

import orjson
from fastapi import Depends, FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from swagger_ui_bundle import swagger_ui_path

from ray_jobs.serve.answer_log import LogFull
from ray_jobs.serve.config import EndpointConfig
from ray_jobs.serve.rows import RowSchema, check_request_id
from ray_jobs.serve.values import BadRequest

REQUEST_ID = "x-request-id"
STICKY_KEY = "x-sticky-key"  # while a canary answers a share, requests with the same key meet the same version


class Answering(Protocol):
    """What the pages need of a replica."""

    @property
    def rows(self) -> RowSchema:
        """What a request's rows look like."""

    @property
    def example(self) -> dict[str, Any]:
        """A body that works."""

    def metadata(self) -> dict[str, Any]:
        """What the replica serves."""

    async def answer(
        self, body: bytes, request_id: str | None, with_features: bool, sticky_key: str | None = None
    ) -> dict[str, Any]:
        """Scores for the rows of a request's body, written down before this returns."""


class Unauthorised(Exception):
    """No token, or another one."""


def build_pages(config: EndpointConfig, token: bytes, replica: Answering) -> ASGIApp:
    """The endpoint's ASGI application.

    Args:
        token: SHA-256 of the token that clients must send; the token itself is not kept.
    """
    app = FastAPI(
        title=f"{config.pipeline}: predictions by Perennial",
        description="Press *Authorize* and give the token; every request but `ready` and this page needs it.",
        version="2",
        docs_url=None,
        redoc_url=None,
        root_path_in_servers=False,
        servers=[{"url": config.route}],
    )
    app.openapi_version = "3.0.3"  # the Swagger UI that comes as a package does not know 3.1
    allowed = Depends(_authorise(token))
    _refuse_politely(app)

    # Swagger UI from its package: FastAPI's own page loads it from a host outside, and stays blank without a network.
    app.mount("/docs/assets", StaticFiles(directory=swagger_ui_path))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return get_swagger_ui_html(
            openapi_url=f"{config.route}/openapi.json",
            title=app.title,
            swagger_js_url=f"{config.route}/docs/assets/swagger-ui-bundle.js",
            swagger_css_url=f"{config.route}/docs/assets/swagger-ui.css",
            swagger_favicon_url=f"{config.route}/docs/assets/favicon-32x32.png",
        )

    @app.get("/", dependencies=[allowed], summary="What is served")
    async def metadata() -> dict[str, Any]:
        return replica.metadata()

    @app.get("/ready", summary="Whether this replica answers")
    async def ready() -> dict[str, bool]:
        return {"ready": True}  # a replica that could not load its version is never reached

    @app.post("/predict", dependencies=[allowed], summary="Scores for rows", openapi_extra=_describe_body(replica))
    async def predict(request: Request, features: bool = False) -> Response:
        """Scores for the rows, in their order. `features=true` returns the model's inputs too."""
        request_id = check_request_id(request.headers.get(REQUEST_ID))  # Serve makes one up, and returns it as a header
        body = await _read_body(request, config.serve.maximum_body_bytes)
        answer = await replica.answer(body, request_id, features, request.headers.get(STICKY_KEY))
        return _json(200, answer)

    return _RootWithoutSlash(app)


class _RootWithoutSlash:
    """FastAPI has no route for the prefix alone and would redirect to the prefix and a slash."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == scope.get("root_path"):
            scope = {**scope, "path": scope["path"] + "/"}
        await self._app(scope, receive, send)


def _authorise(token: bytes) -> Callable[..., Awaitable[None]]:
    bearer = HTTPBearer(auto_error=False)

    async def authorise(sent: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if sent is None or not hmac.compare_digest(hashlib.sha256(sent.credentials.encode()).digest(), token):
            raise Unauthorised

    return authorise


async def _read_body(request: Request, maximum_bytes: int) -> bytes:
    """The body, of which no more than the limit is ever held, also where its length is not announced."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise BadRequest("compressed bodies are not accepted; send plain JSON.", status=415)
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BadRequest(f"content type {kind!r} is not accepted; send application/json.", status=415)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > maximum_bytes:
            raise BadRequest(f"the body is larger than {maximum_bytes:,} bytes; send fewer rows at a time.", status=413)
    return bytes(body)


def _refuse_politely(app: FastAPI) -> None:
    @app.exception_handler(BadRequest)
    async def bad_request(request: Request, error: BadRequest) -> Response:
        return _json(error.status, {"error": error.detail})

    @app.exception_handler(Unauthorised)
    async def unauthorised(request: Request, error: Unauthorised) -> Response:
        detail = "send the header 'Authorization: Bearer <token>' with the endpoint's token."
        return _json(401, {"error": detail}, {"www-authenticate": "Bearer"})

    @app.exception_handler(LogFull)
    async def log_full(request: Request, error: LogFull) -> Response:
        return _json(503, {"error": str(error)}, {"retry-after": "30"})


def _json(status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def _describe_body(replica: Answering) -> dict[str, Any]:
    kinds = {"whole number": "integer", "number": "number", "true or false": "boolean"}
    described = replica.rows.describe()
    columns = {**described["columns"], **{n: c for join in described["joined"].values() for n, c in join.items()}}
    properties = {
        name: {
            "type": [kinds.get(column["type"], "string"), *(["null"] if column["nullable"] else [])],
            "description": column["type"],
        }
        for name, column in columns.items()
    }
    row = {
        "type": "object",
        "properties": properties,
        "required": sorted(replica.rows.required),
        "additionalProperties": False,
    }
    schema = {
        "type": "object",
        "properties": {"rows": {"type": "array", "minItems": 1, "items": row}, "request_id": {"type": "string"}},
        "required": ["rows"],
        "additionalProperties": False,
        "example": replica.example,
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
