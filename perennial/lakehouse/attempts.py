"""Try until it lands: what a catalog or S3 may answer on the way, and how long one waits for them."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    ServerError,
    ServiceUnavailableError,
    TooManyRequestsError,
)
from sqlalchemy.exc import DBAPIError

TRIES = 30
DEADLINE_SECONDS = 300.0
_RETRIED = (
    CommitFailedException,
    CommitStateUnknownException,
    ServerError,
    ServiceUnavailableError,
    TooManyRequestsError,
    OSError,
    DBAPIError,
)
_HOPELESS = (
    "ACCESS_DENIED",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "NoSuchBucket",
    "disk is full",
    "No space left",
)
T = TypeVar("T")


class CommitUnfinished(RuntimeError):
    """The deadline passed and the batch is not in the table; its data files are on S3 and no table refers to them."""


def until_it_lands(attempt: Callable[[int], T], missing: str) -> T:
    """The first answer of `attempt`, which is given its number and looks before it leaps.

    Raises:
        CommitUnfinished: 30 tries or 5 minutes were not enough; the message begins with `missing`.
    """
    started = time.monotonic()
    last: Exception | None = None
    for number in range(TRIES):
        if time.monotonic() - started > DEADLINE_SECONDS:
            break
        try:
            return attempt(number)
        except _RETRIED as error:
            if any(word in str(error) for word in _HOPELESS):
                raise
            last = error
            time.sleep(random.uniform(0, min(5.0, 0.05 * 2**number)))  # noqa: S311 - full jitter
    raise CommitUnfinished(
        f"{missing} after {time.monotonic() - started:.0f} s; the last attempt said: {type(last).__name__}: {last}. "
        "Nothing of it is readable and its files are kept. Run the flow again."
    ) from last
