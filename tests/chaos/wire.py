"""A wire to PostgreSQL that breaks after a COMMIT was carried out and before its answer arrives."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from tests.chaos.loop import serving

_SOCKET = ".s.PGSQL.5432"


class DeafWire:
    """A socket before the server's own.

    Args:
        server: the folder of the server's socket.
        random: decides which commits of a table lose their answer.

    Attributes:
        share: of the commits whose answer is lost.
        lost: answers lost so far.
    """

    def __init__(self, server: Path, random: Random, share: float) -> None:
        self.server, self.random, self.share, self.lost = server, random, share, 0

    @contextmanager
    def running(self, folder: Path) -> Iterator[None]:
        """Serve in a folder, in a thread of its own: `host=<folder>` in the catalog's address leads here."""
        with serving(lambda: asyncio.start_unix_server(self._serve, folder / _SOCKET)):
            yield

    async def _serve(self, client: StreamReader, answers: StreamWriter) -> None:
        server, requests = await asyncio.open_unix_connection(self.server / _SOCKET)
        losing = asyncio.Event()

        async def ask() -> None:
            swaps = False
            while asked := await client.read(65536):
                swaps = swaps or b"UPDATE iceberg_tables" in asked
                if b"COMMIT\x00" in asked and swaps:
                    swaps = False
                    if self.random.random() < self.share:
                        losing.set()
                requests.write(asked)
                await requests.drain()
            requests.close()

        async def answer() -> None:
            while answered := await server.read(65536):
                if losing.is_set():  # it is done: PostgreSQL answers a COMMIT after it was written
                    self.lost += 1
                    break
                answers.write(answered)
                await answers.drain()

        asking = asyncio.create_task(ask())
        try:
            await answer()
        except (ConnectionError, asyncio.CancelledError):  # cancelled when the test ends
            pass
        finally:
            asking.cancel()
            requests.close()
            answers.close()
