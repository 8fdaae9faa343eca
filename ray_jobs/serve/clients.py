"""Who may ask the endpoint: clients by name, their tokens as SHA-256 only, followed without a restart.

The book is one secret, `serve_clients`: a JSON file in the secrets folder, or a mounted one. Tokens are 256 random bits,
so a plain hash cannot be searched; whoever reads the book cannot ask with it. Beside the clients in the book there is
`operator`, whose token is the secret `serve_token`: roll-outs and the demo are its users.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from perennial.lakehouse.secrets import SecretMissing, SecretRef, open_secret

logger = logging.getLogger("ray.serve")
BOOK = SecretRef(name="serve_clients")
OPERATOR = "operator"
LOOK_SECONDS = 1.0
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


class ClientMistake(ValueError):
    """A client that cannot be added or revoked as asked; nothing was changed."""


class Token(BaseModel, frozen=True):
    """One token of a client. `token_id`: the first eight digits of its hash, to revoke it by."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created_at: datetime

    @property
    def token_id(self) -> str:
        """How people name it."""
        return self.sha256[:8]


class Client(BaseModel, frozen=True):
    """Somebody who may ask.

    Args:
        requests_per_second: what each replica admits of it; None: as much as it can serve.
    """

    tokens: tuple[Token, ...]
    requests_per_second: float | None = Field(None, gt=0)


class Book(BaseModel, frozen=True):
    """All clients, by name."""

    clients: dict[str, Client] = {}


def add_token(folder: Path, name: str, now: datetime, requests_per_second: float | None = None) -> str:
    """Give a client one more token, and return it: it is shown once and kept nowhere. Its older tokens stay valid.

    Raises:
        ClientMistake: the name cannot be used.
    """
    if not _NAME.fullmatch(name) or name == OPERATOR:
        raise ClientMistake(f"a client's name matches {_NAME.pattern} and is not {OPERATOR!r}; got {name!r}.")
    token = f"prn_{secrets.token_urlsafe(32)}"
    with _changing(folder) as clients:
        former = clients.get(name) or Client(tokens=())
        fresh = Token(sha256=_digest(token), created_at=now)
        clients[name] = Client(
            tokens=(*former.tokens, fresh), requests_per_second=requests_per_second or former.requests_per_second
        )
    return token


def revoke(folder: Path, name: str, token_id: str | None = None) -> int:
    """Take a client's tokens away, or the one with this id; return how many went. Replicas know within a second.

    Raises:
        ClientMistake: there is no such client, or it has no such token.
    """
    with _changing(folder) as clients:
        client = clients.get(name)
        if client is None:
            raise ClientMistake(f"there is no client {name!r}; there are {sorted(clients) or 'none'}.")
        kept = tuple(token for token in client.tokens if token_id is not None and token.token_id != token_id)
        if len(kept) == len(client.tokens):
            known = [token.token_id for token in client.tokens]
            raise ClientMistake(f"client {name!r} has no token {token_id!r}; it has {known}.")
        if kept:
            clients[name] = client.model_copy(update={"tokens": kept})
        else:
            del clients[name]
        return len(client.tokens) - len(kept)


def read_book(folder: Path | None) -> Book:
    """The clients; none where there is no book yet."""
    try:
        return Book.model_validate_json(open_secret(BOOK, folder).get_secret_value() or "{}")
    except SecretMissing:
        return Book()


class Clients:
    """The book as a replica holds it: looked at again every second, so that a new token works and a revoked one does not.

    Not for several threads: the event loop's.
    """

    def __init__(self, operator: SecretRef, folder: Path | None) -> None:
        self._operator, self._folder = operator, folder
        self._names: dict[bytes, str] = {}
        self._limits: dict[str, _Bucket] = {}
        self._read()
        self._next_look = time.monotonic() + LOOK_SECONDS

    def who(self, authorization: bytes) -> str | None:
        """The client that a request's `Authorization` header names; None where it names nobody."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._look()
        if authorization[:7].lower() != b"bearer ":
            return None
        # Looked up by its hash: how long that takes tells nothing of any token.
        return self._names.get(hashlib.sha256(authorization[7:].strip()).digest())

    def wait_seconds(self, name: str) -> float:
        """0 where the client may ask now; else how long until it may."""
        limit = self._limits.get(name)
        return limit.take(time.monotonic()) if limit else 0.0

    def _look(self) -> None:
        try:
            self._read()
        except (SecretMissing, ValidationError, OSError) as error:
            # Whoever could ask a second ago still can; a torn or missing book must not shut everybody out.
            logger.warning("clients' tokens could not be read, those known before stay valid: %s", type(error).__name__)

    def _read(self) -> None:
        operator = open_secret(self._operator, self._folder).get_secret_value()
        book = read_book(self._folder)
        names = {bytes.fromhex(t.sha256): name for name, client in book.clients.items() for t in client.tokens}
        self._names = names | {hashlib.sha256(operator.encode()).digest(): OPERATOR}
        rates = {n: c.requests_per_second for n, c in book.clients.items() if c.requests_per_second is not None}
        self._limits = {
            name: known if (known := self._limits.get(name)) and known.rate == rate else _Bucket(rate)
            for name, rate in rates.items()
        }


class _Bucket:
    """A token bucket: `rate` requests a second, and a second's worth at once."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._held, self._at = max(1.0, rate), time.monotonic()

    def take(self, now: float) -> float:
        self._held = min(max(1.0, self.rate), self._held + (now - self._at) * self.rate)
        self._at = now
        if self._held >= 1:
            self._held -= 1
            return 0.0
        return (1 - self._held) / self.rate


@contextmanager
def _changing(folder: Path) -> Iterator[dict[str, Client]]:
    """The clients, to be changed by one process at a time, and written whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / f".{BOOK.name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / BOOK.name
        clients = dict(Book.model_validate_json(path.read_text()).clients) if path.exists() else {}
        yield clients
        fresh = folder / f".{BOOK.name}.new"
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(Book(clients=clients).model_dump(mode="json"), file, indent=2)
        fresh.replace(path)
    finally:
        os.close(lock)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
