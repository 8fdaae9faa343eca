"""Something unreliable between S3 clients and their server: each request may meet a fault, by a seeded choice.

Requests and answers pass byte for byte, so signatures stay good. The server behind stays up and keeps what it did.
"""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from tests.chaos.loop import serving

FAULTS = ("unavailable", "hang", "cut", "lost")
_BUSY = (
    b"<?xml version='1.0'?><Error><Code>ServiceUnavailable</Code><Message>Reduce your request rate.</Message></Error>"
)
_503 = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: "


class Cut(ConnectionError):
    """The connection ends here, without a word."""


class FaultProxy:
    """An S3 server's unreliable twin.

    Args:
        port: of the server on loopback.
        random: decides which requests meet a fault, and where a connection is cut.

    Attributes:
        fault: one of `FAULTS`: 503 instead of an answer; no answer at all; the connection cut before, within or after
            the request; the request carried out and its answer lost. None: all is well.
        share: of the requests that meet it.
        away: nobody is there: every connection is cut at once.
        met: requests that met each fault, and all of them as `requests`.
    """

    def __init__(self, port: int, random: Random) -> None:
        self.upstream, self.random = port, random
        self.fault: str | None = None
        self.share, self.away = 0.2, False
        self.met: Counter[str] = Counter()

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve on a free port of loopback in a thread of its own; yields the address."""
        with serving(lambda: asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, client: StreamReader, answers: StreamWriter) -> None:
        try:
            while not self.away:
                try:
                    head = await client.readuntil(b"\r\n\r\n")
                except asyncio.IncompleteReadError:
                    return  # the client has nothing more to ask
                if self.away:
                    return
                self.met["requests"] += 1
                meets = self.fault if self.fault and self.random.random() < self.share else None
                self.met[meets or "none"] += 1
                await self._answer(meets, head, client, answers)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):  # cancelled when the test ends
            pass
        finally:
            answers.transport.abort()

    async def _answer(self, meets: str | None, head: bytes, client: StreamReader, answers: StreamWriter) -> None:
        if meets == "unavailable":
            await _drop_body(head, client)
            answers.write(_503 + str(len(_BUSY)).encode() + b"\r\n\r\n" + _BUSY)
            await answers.drain()
            await asyncio.sleep(0.05)
            raise Cut
        if meets == "hang":
            while await client.read(65536):  # what it still sends is heard and never answered
                pass
            raise Cut
        where = self.random.choice(("before", "request", "answer")) if meets == "cut" else ""
        if where == "before":
            raise Cut
        server, requests = await asyncio.open_connection("127.0.0.1", self.upstream, limit=2**20)
        try:
            requests.write(head)
            answer = await self._send_body(head, client, answers, server, requests, cut=where == "request")
            if meets == "lost" or where == "answer":
                body = await _body(answer, server, None, head)
                if where == "answer":
                    answers.write(answer + body[: len(body) // 2])
                    await answers.drain()
                raise Cut
            answers.write(answer)
            await _body(answer, server, answers, head)
            await answers.drain()
        finally:
            requests.close()

    async def _send_body(
        self,
        head: bytes,
        client: StreamReader,
        answers: StreamWriter,
        server: StreamReader,
        requests: StreamWriter,
        *,
        cut: bool,
    ) -> bytes:
        """Pass the request's body on; the head of the server's answer to it."""
        if _field(head, b"expect") is not None:
            answer = await server.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 100"):
                return answer  # refused before the body came
            answers.write(answer)
        size = int(_field(head, b"content-length") or 0)
        if cut:
            requests.write(await client.readexactly(size // 2))
            await requests.drain()
            requests.transport.abort()
            raise Cut
        if _field(head, b"transfer-encoding"):
            await _chunks(client, requests)
        else:
            await _copy(client, requests, size)
        await requests.drain()
        return await server.readuntil(b"\r\n\r\n")


async def _drop_body(head: bytes, client: StreamReader) -> None:
    if _field(head, b"expect") is None:
        await client.readexactly(int(_field(head, b"content-length") or 0))


async def _body(answer: bytes, server: StreamReader, to: StreamWriter | None, request: bytes) -> bytes:
    """Pass the answer's body on, or return it where it goes nowhere."""
    status = answer.split(b" ", 2)[1]
    if request.startswith(b"HEAD ") or status in (b"204", b"304"):
        return b""
    if _field(answer, b"transfer-encoding"):
        return await _chunks(server, to)
    return await _copy(server, to, int(_field(answer, b"content-length") or 0))


async def _chunks(source: StreamReader, to: StreamWriter | None) -> bytes:
    kept = b""
    while True:
        line = await source.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        chunk = line + await source.readexactly(size + 2)
        if to:
            to.write(chunk)
        else:
            kept += chunk
        if not size:
            return kept


async def _copy(source: StreamReader, to: StreamWriter | None, size: int) -> bytes:
    kept = b""
    while size:
        part = await source.read(min(size, 65536))
        if not part:
            raise Cut
        size -= len(part)
        if to:
            to.write(part)
            await to.drain()
        else:
            kept += part
    return kept


def _field(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return None
