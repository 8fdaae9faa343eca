"""Judgements on a table's files: which to write together, and which nobody can need any more. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

MINIMUM_AGE = timedelta(hours=24)
PUBLISH_FACTOR = 10
SMALL_SHARE = 0.75
FEWEST_FILES = 5


@dataclass(frozen=True)
class SizedFile:
    """A live data file: where, how large, and in which partition."""

    path: str
    bytes: int
    partition: str = ""


def pack(files: Iterable[SizedFile], target_bytes: int) -> list[list[str]]:
    """Paths of the files to be written together: of one partition each, about `target_bytes` together, in the files' order.

    A file of three quarters of the target is left alone. A group is worth its writing when it fills a file or
    brings five together: fewer would be written again with every small file that follows.
    """
    small: dict[str, list[SizedFile]] = {}
    for file in files:
        if file.bytes < SMALL_SHARE * target_bytes:
            small.setdefault(file.partition, []).append(file)
    groups: list[list[SizedFile]] = []
    for partition in small.values():
        open_group: list[SizedFile] = []
        for file in partition:
            if open_group and _bytes(open_group) + file.bytes > target_bytes:
                groups.append(open_group)
                open_group = []
            open_group.append(file)
        groups.append(open_group)
    return [[file.path for file in group] for group in groups if _is_worth_it(group, target_bytes)]


def _is_worth_it(group: Sequence[SizedFile], target_bytes: int) -> bool:
    return len(group) >= FEWEST_FILES or (len(group) > 1 and _bytes(group) >= SMALL_SHARE * target_bytes)


def _bytes(group: Sequence[SizedFile]) -> int:
    return sum(file.bytes for file in group)


def safe_age(longest_publish: timedelta) -> timedelta:
    """How old a file must be before it can be left over: a day, or ten times the longest publish where that is more."""
    return max(MINIMUM_AGE, PUBLISH_FACTOR * longest_publish)


def is_left_over(modified_at: datetime, noted_at: datetime, longest_publish: timedelta) -> bool:
    """Whether a file that no table refers to, now or when its state was last noted, can be needed by nobody.

    A file that was referred to only in between was written at most a publish before; so what was written well before
    the note was either never published or had been given up by then, and that is the safe age ago.
    """
    return modified_at < noted_at - PUBLISH_FACTOR * longest_publish
