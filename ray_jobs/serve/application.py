"""The way in: who asks, what they ask and how much of it, before anything is read; and how a refusal looks.

Questions take the short way, straight from ASGI to a worker; everything else (pages, metadata) goes through FastAPI.
"""

import asyncio
import math
from collections.abc import Iterable
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from ray_jobs.serve.arrow_rows import FILE, STREAM
from ray_jobs.serve.batching import Ask, Overloaded, Reply, TimedOut, refusal
from ray_jobs.serve.clients import Clients
from ray_jobs.serve.inference_protocol import HEADER_LENGTH
from ray_jobs.serve.rows import check_request_id
from ray_jobs.serve.values import BadRequest, say

REQUEST_ID = "x-request-id"
STICKY_KEY = "x-sticky-key"  # while a canary answers a share, requests with the same key meet the same version
_CONTENT = {  # what each path takes; infer's binary data come as octets
    "/predict": {"application/json": "rows", STREAM: "arrow", FILE: "arrow"},
    "/infer": {"application/json": "infer", "application/octet-stream": "infer"},
}
_NO_TOKEN = "send the header 'Authorization: Bearer <token>' with a token of yours (docs/serving.md)."  # noqa: S105


class Answering(Protocol):
    """What the way in needs of a replica."""

    async def answer(self, ask: Ask) -> Reply:
        """The request's reply, written down before this returns."""

    def refused(self, ask_id: str, client: str, status: int) -> None:
        """A request was refused before it was read."""


class Gate:
    """The endpoint's ASGI application.

    Args:
        clients: None where anybody may ask.
        maximum_bytes: of a body; not one byte more is held.
        body_seconds: how long a body may take to arrive.
        pages: for whatever is no question.
    """

    def __init__(
        self,
        replica: Answering,
        clients: Clients | None,
        maximum_bytes: int,
        body_seconds: float,
        pages: ASGIApp,
    ) -> None:
        self._replica, self._clients, self._pages = replica, clients, pages
        self._maximum_bytes, self._body_seconds = maximum_bytes, body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._pages(scope, receive, send)
            return
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        place, version = _place(path[len(root) :] if path.startswith(root) else path)
        if place is None:
            await self._pages(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id, client = "", ""
        try:
            request_id = check_request_id(headers.get(REQUEST_ID) or None) or ""
            if scope["method"] != "POST":
                raise _Refused(405, "send a POST.", [(b"allow", b"POST")])
            client = self._admit(headers)
            kind = _kind(place, headers)
            body = await self._read(headers, receive)
            options = {name: headers[name] for name in ("accept", HEADER_LENGTH, STICKY_KEY) if name in headers}
            if scope["query_string"]:
                options["query"] = scope["query_string"].decode("latin-1")
            ask = Ask(kind, body, request_id, client, options, version)
            reply = await self._replica.answer(ask)
        except BadRequest as error:
            reply = refusal(error.status, error.detail)
            self._replica.refused(request_id, client, error.status)
        except _Refused as error:
            reply = refusal(error.status, error.detail, error.headers)
            self._replica.refused(request_id, client, error.status)
        except (Overloaded, TimedOut) as error:
            detail = (
                "more requests wait than can be answered in time"
                if isinstance(error, Overloaded)
                else "it took too long"
            )
            reply = refusal(
                503, f"{detail}; nothing was answered. Come back after the seconds in Retry-After.", _retry(1)
            )
            self._replica.refused(request_id, client, 503)
        start = {"type": "http.response.start", "status": reply.status}
        start["headers"] = [*reply.headers, (b"content-length", str(len(reply.body)).encode())]
        await send(start)
        await send({"type": "http.response.body", "body": reply.body})

    def _admit(self, headers: dict[str, str]) -> str:
        if self._clients is None:
            return ""
        client = self._clients.who(headers.get("authorization", "").encode("latin-1"))
        if client is None:
            raise _Refused(401, _NO_TOKEN, [(b"www-authenticate", b"Bearer")])
        wait = self._clients.wait_seconds(client)
        if wait:
            seconds = math.ceil(wait)
            raise _Refused(429, f"client {client} asks more often than it may; wait {seconds} s.", _retry(seconds))
        return client

    async def _read(self, headers: dict[str, str], receive: Receive) -> bytes:
        """The body, of which no more than the limit is ever held, also where its length is not announced."""
        announced = headers.get("content-length", "")
        if announced.isdigit() and (len(announced) > 15 or int(announced) > self._maximum_bytes):
            raise self._too_large()
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            try:
                async with asyncio.timeout(self._body_seconds):
                    body = await self._read_rest(bytearray(body), receive)
            except TimeoutError:
                raise _Refused(408, f"the body did not arrive within {self._body_seconds:g} s.") from None
        elif message["type"] == "http.disconnect":
            raise _Refused(400, "the body was cut off.")
        if len(body) > self._maximum_bytes:
            raise self._too_large()
        return body

    async def _read_rest(self, body: bytearray, receive: Receive) -> bytes:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Refused(400, "the body was cut off.")
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._maximum_bytes:
                raise self._too_large()
        return bytes(body)

    def _too_large(self) -> "_Refused":
        return _Refused(413, f"the body is larger than {self._maximum_bytes:,} bytes; send fewer rows at a time.")


class _Refused(Exception):
    def __init__(self, status: int, detail: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, tuple(headers)


def _retry(seconds: int) -> list[tuple[bytes, bytes]]:
    return [(b"retry-after", str(seconds).encode())]


def _place(path: str) -> tuple[str | None, int | None]:
    """Which question a path asks, of which version; None: none."""
    if path in _CONTENT:
        return path, None
    if path.startswith("/versions/"):
        version, _, rest = path.removeprefix("/versions/").partition("/")
        if f"/{rest}" in _CONTENT and version.isascii() and version.isdigit() and len(version) < 10:
            return f"/{rest}", int(version)
    return None, None


def _kind(place: str, headers: dict[str, str]) -> str:
    if headers.get("content-encoding", "identity") not in ("identity", ""):
        raise BadRequest("compressed bodies are not accepted; send it plain.", status=415)
    sent = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    kinds = _CONTENT[place]
    if sent not in kinds:
        raise BadRequest(f"content type {say(sent)} is not accepted; send one of {', '.join(kinds)}.", status=415)
    return kinds[sent]
