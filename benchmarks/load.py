"""An open-loop load generator: requests leave when they are due, whether or not earlier ones were answered.

Latency counts from the moment a request was due, so that a server that stalls is charged for everyone who waited
(Tene, "How NOT to Measure Latency", 2013: coordinated omission). Keep-alive connections, HTTP/1.1, one process.
"""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Load:
    """What came back. `latencies_ms` holds those of answers with status 200, in the order of their arrival."""

    seconds: float
    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    retry_after: int = 0
    unfinished: int = 0
    bodies: list[bytes] = field(default_factory=list)

    @property
    def answered_per_second(self) -> float:
        """Answers with status 200 per second of the run."""
        return self.statuses[200] / self.seconds

    def quantile(self, share: float) -> float:
        """Latency in milliseconds that `share` of the answers did not exceed."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def http_request(host: str, path: str, body: bytes = b"", headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """The bytes of a POST, or of a GET where there is no body."""
    lines = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", f"host: {host}", *(f"{k}: {v}" for k, v in headers)]
    if body:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


async def open_loop(
    host: str,
    port: int,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    *,
    seed: int = 7,
    maximum_connections: int = 1_000,
    patience_seconds: float = 10.0,
    keep_bodies: bool = False,
) -> Load:
    """Send `rate` requests a second with exponential gaps (a Poisson process) for `seconds`, then wait for the rest."""
    generator = _Generator(host, port, Load(seconds), maximum_connections, keep_bodies)
    dice = random.Random(seed)
    start = time.perf_counter()
    due, end, number = start, start + seconds, 0
    while due < end:
        now = time.perf_counter()
        if due > now:
            await asyncio.sleep(due - now)
        while due <= time.perf_counter() and due < end:
            generator.send(requests[number % len(requests)], due)
            number += 1
            due += dice.expovariate(rate)
        await asyncio.sleep(0)
    patience = time.perf_counter() + patience_seconds
    while generator.outstanding and time.perf_counter() < patience:
        await asyncio.sleep(0.01)
    generator.load.unfinished = generator.outstanding
    generator.close()
    return generator.load


async def closed_loop(
    host: str, port: int, requests: Sequence[bytes], clients: int, seconds: float, **options: int
) -> Load:
    """`clients` that each send the next request when the last was answered: what the server can do at most."""
    generator = _Generator(host, port, Load(seconds), clients, keep_bodies=False)
    end = time.perf_counter() + seconds
    number = 0
    while (now := time.perf_counter()) < end:
        while generator.outstanding < clients:
            generator.send(requests[number % len(requests)], time.perf_counter())
            number += 1
        generator.woken.clear()
        try:
            await asyncio.wait_for(generator.woken.wait(), end - now + 1)
        except TimeoutError:
            break
    for _ in range(500):
        if not generator.outstanding:
            break
        await asyncio.sleep(0.01)
    generator.load.unfinished = generator.outstanding
    generator.close()
    return generator.load


class _Generator:
    def __init__(self, host: str, port: int, load: Load, maximum: int, keep_bodies: bool) -> None:
        self.host, self.port, self.load, self.maximum, self.keep_bodies = host, port, load, maximum, keep_bodies
        self.free: list[_Connection] = []
        self.all: set[_Connection] = set()
        self.waiting: deque[tuple[bytes, float]] = deque()
        self.connecting: set[asyncio.Task[None]] = set()
        self.woken = asyncio.Event()
        self.outstanding = 0

    def send(self, request: bytes, due: float) -> None:
        self.load.sent += 1
        self.outstanding += 1
        if self.free:
            self.free.pop().send(request, due)
            return
        self.waiting.append((request, due))
        if len(self.all) + len(self.connecting) < self.maximum:
            task = asyncio.get_running_loop().create_task(self._connect())
            self.connecting.add(task)
            task.add_done_callback(self.connecting.discard)

    def answered(self, connection: "_Connection | None", status: int, due: float, head: bytes, body: bytes) -> None:
        self.outstanding -= 1
        self.load.statuses[status] += 1
        if status == 200:
            self.load.latencies_ms.append((time.perf_counter() - due) * 1000)
            if self.keep_bodies:
                self.load.bodies.append(body)
        elif b"retry-after" in head:
            self.load.retry_after += 1
        if connection is not None:
            if self.waiting:
                connection.send(*self.waiting.popleft())
            else:
                self.free.append(connection)
        self.woken.set()

    def lost(self, connection: "_Connection", due: float | None) -> None:
        self.all.discard(connection)
        if connection in self.free:
            self.free.remove(connection)
        if due is not None:
            self.answered(None, 0, due, b"", b"")

    def close(self) -> None:
        for connection in list(self.all):
            connection.due = None
            connection.transport.abort()

    async def _connect(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: _Connection(self), self.host, self.port)
        except OSError:
            if self.waiting:
                self.waiting.popleft()
                self.answered(None, 0, 0.0, b"", b"")  # refused
            return
        self.all.add(connection)
        if self.waiting:
            connection.send(*self.waiting.popleft())
        else:
            self.free.append(connection)


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, generator: _Generator) -> None:
        self.generator, self.due = generator, None
        self.buffer = b""
        self.due: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        split = self.buffer.find(b"\r\n\r\n")
        if split < 0:
            return
        head = self.buffer[:split].lower()
        place = head.find(b"content-length:")
        if place >= 0:
            end = head.find(b"\r\n", place)
            length = int(head[place + 15 : end if end >= 0 else None])
            if len(self.buffer) < split + 4 + length:
                return
            body, self.buffer = self.buffer[split + 4 : split + 4 + length], self.buffer[split + 4 + length :]
        elif b"chunked" in head:
            if not self.buffer.endswith(b"0\r\n\r\n"):
                return
            body, self.buffer = self.buffer[split + 4 :], b""
        else:
            body, self.buffer = b"", self.buffer[split + 4 :]
        due, self.due = self.due, None
        if due is not None:
            self.generator.answered(self, int(head[9:12]), due, head, body)

    def connection_lost(self, error: Exception | None) -> None:
        self.generator.lost(self, self.due)
