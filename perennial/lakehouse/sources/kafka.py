"""Kafka topics: which messages have arrived since a position, which is the next offset of every partition.

The offsets in the table are the only ones that count: partitions are assigned, never subscribed to, and no consumer
group is asked or told anything.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.sources.brokers import Topic, describe_topic
from perennial.spec.kafka import Kafka

if TYPE_CHECKING:
    from perennial.lakehouse.positions import Batch

PART_MESSAGES = 250_000  # a partition with more is read at several places at once


class KafkaPart(BaseModel, frozen=True):
    """Messages of one partition that have not been committed yet: offsets `start` to `end`, which is not among them.

    `lost`: messages before `start` that expired unread. Told once, on the batch's first part: `waiting`, the messages left
    to the next run, and `idle`, the next offsets of partitions that bring none, so that a position names every partition.
    """

    kind: Literal["kafka"] = "kafka"
    cluster: str
    topic: str
    topic_id: str
    partition: int
    start: int
    end: int
    lost: int = 0
    waiting: int = 0
    idle: dict[int, int] = {}

    @property
    def identity(self) -> str:
        """What tells this part from every other of its source: it goes into the batch's id."""
        return f"{self.cluster}/{self.topic_id}/{self.topic}[{self.partition}]@{self.start}-{self.end}"

    @property
    def weight(self) -> int:
        """How much work it is to read, in messages."""
        return self.end - self.start


class Position(BaseModel, frozen=True):
    """How far a topic was read. The topic is known by its id and its cluster's: another one may come by its name.

    `next`: the offset to read next, by partition. `read`: what the last batch read, `[from, to, lost]`, by partition.
    """

    cluster: str = ""
    topic: str = ""
    topic_id: str = ""
    next: dict[int, int] = {}
    read: dict[int, tuple[int, int, int]] = {}


def is_same(topic: Topic, position: Position) -> bool:
    """Whether the position was taken on this topic. An id that is empty, of old brokers, says nothing."""
    same_id = topic.id == position.topic_id or "" in (topic.id, position.topic_id)
    return (topic.cluster, topic.name) == (position.cluster, position.topic) and same_id


class MessagesLost(RuntimeError):
    """Messages expired before they were read. Nothing was committed; the message says how many and how to go on."""


def new_parts(lake: Lake, source: Kafka, previous: str) -> list[KafkaPart]:
    """The messages between a position and the ends of the partitions now, `maximum_messages` at most.

    Raises:
        KafkaUnavailable: the brokers do not answer, or there is no such topic.
        MessagesLost: messages at the position have expired, and the source does not accept their loss.
    """
    return plan_parts(describe_topic(lake, source), read_position(previous), source)


def plan_parts(topic: Topic, position: Position, source: Kafka) -> list[KafkaPart]:
    """See `new_parts`. Partitions share the maximum: none waits behind a busier one."""
    known = position if is_same(topic, position) else Position()
    # a topic that is met for the first time begins where its brokers' memory does, a partition added to it at 0
    nexts = {p: known.next.get(p, 0 if known.next else first) for p, first in topic.first.items()}
    rewound = {p: offset for p, offset in nexts.items() if offset > topic.end[p]}
    # where brokers know topics by id, they lost messages that are in the table; else the topic was rebuilt
    behind = topic.end if topic.id else topic.first
    starts = {p: behind[p] if p in rewound else max(offset, topic.first[p]) for p, offset in nexts.items()}
    lost = {p: starts[p] - offset for p, offset in nexts.items() if starts[p] > offset}
    if (lost or rewound) and not source.accept_loss:
        raise MessagesLost(_say_loss(topic, lost, rewound))
    takes = share_out({p: topic.end[p] - start for p, start in starts.items()}, source.maximum_messages)
    parts = [
        KafkaPart(
            cluster=topic.cluster,
            topic=topic.name,
            topic_id=topic.id,
            partition=partition,
            start=start,
            end=min(start + PART_MESSAGES, starts[partition] + take),
            lost=lost.get(partition, 0) if start == starts[partition] else 0,
        )
        for partition, take in sorted(takes.items())
        for start in range(starts[partition], starts[partition] + take, PART_MESSAGES)
    ]
    if not parts:
        return []
    waiting = sum(topic.end[p] - start for p, start in starts.items()) - sum(takes.values())
    idle = {p: start for p, start in starts.items() if not takes[p]}
    return [parts[0].model_copy(update={"waiting": waiting, "idle": idle}), *parts[1:]]


def cut_parts(parts: Sequence[KafkaPart], reached: dict[str, int]) -> tuple[list[KafkaPart], bool]:
    """The parts up to where their readers stopped, and whether messages behind that were read, by other readers.

    Args:
        reached: the next offset of each part that was not read to its end, by its identity.
    """
    kept: list[KafkaPart] = []
    stopped: dict[int, int] = {}
    read_behind = False
    for part in parts:  # in the order of their offsets
        end = reached.get(part.identity, part.end)
        if part.partition in stopped:
            read_behind = read_behind or end > part.start
            continue
        if end < part.end:
            stopped[part.partition] = part.start - part.lost  # what was lost is told when messages behind it are read
        if end > part.start:
            kept.append(part.model_copy(update={"end": end}))
    waiting = parts[0].waiting + sum(part.weight for part in parts) - sum(part.weight for part in kept)
    idle = parts[0].idle | {p: start for p, start in stopped.items() if all(part.partition != p for part in kept)}
    return [kept[0].model_copy(update={"waiting": waiting, "idle": idle}), *kept[1:]], read_behind


def share_out(wanted: dict[int, int], maximum: int) -> dict[int, int]:
    """Give each partition what it wants, or its fair share where together they want more than the maximum."""
    shares: dict[int, int] = {}
    for number, (partition, messages) in enumerate(sorted(wanted.items(), key=lambda item: item[1])):
        fair = (maximum - sum(shares.values())) // (len(wanted) - number)
        shares[partition] = min(messages, fair)
    return shares


def describe(parts: Sequence[KafkaPart]) -> str:
    """How many messages, of which partitions, and how many are left for the next run."""
    if not parts:
        return "no messages"
    partitions = len({part.partition for part in parts})
    messages = f"{sum(part.weight for part in parts):,} messages of {partitions} partitions of {parts[0].topic}"
    return messages + (f", {parts[0].waiting:,} wait for the next run" if parts[0].waiting else "")


def alarm(previous: str, parts: Sequence[KafkaPart]) -> str:
    """What nobody may overlook: messages that were lost, a topic that is another one than before."""
    position, words = read_position(previous), []
    lost = {part.partition: part.lost for part in parts if part.lost}
    same = bool(parts) and is_same(_topic_of(parts), position)
    back = {part.partition: part.start for part in parts if same and part.start < position.next.get(part.partition, 0)}
    if lost:
        words.append(
            f"Up to {sum(lost.values()):,} messages of {parts[0].topic} expired before they were read and are LOST; by "
            f"partition: {lost}. The source accepts it, so the batch goes on behind them."
        )
    if back:
        words.append(
            f"{parts[0].topic} ended before what was read of it, up to {position.next}; it is read on from {back}."
        )
    if parts and position.next and not same:
        words.append(
            f"{parts[0].topic} is another topic than before (cluster {parts[0].cluster}, id {parts[0].topic_id or 'none'}; "
            f"before: {position.cluster}, {position.topic_id or 'none'}). It is read from its start; what the former one "
            f"held behind the offsets {position.next} was never read."
        )
    return " ".join(words)


def source_id(parts: Sequence[KafkaPart]) -> str:
    """Which topic of which cluster: ids, because another one may come by the name."""
    return f"{parts[0].cluster}/{parts[0].topic}/{parts[0].topic_id}" if parts else ""


def position_after(batch: "Batch") -> str:
    """The position once the batch is committed. It only moves forward, and another topic begins anew."""
    parts = [part for part in batch.parts if isinstance(part, KafkaPart)]
    before, topic = read_position(batch.previous), _topic_of(parts)
    reached = before.next if is_same(topic, before) else {}
    read: dict[int, tuple[int, int, int]] = {}
    for part in parts:  # in the order of their offsets
        start, _, lost = read.get(part.partition, (part.start, part.end, part.lost))
        read[part.partition] = (start, part.end, lost)
    ends = {partition: end for partition, (_, end, _) in read.items()}
    return Position(
        cluster=topic.cluster, topic=topic.name, topic_id=topic.id, next=reached | parts[0].idle | ends, read=read
    ).model_dump_json()


def read_position(position: str) -> Position:
    """A position as the table holds it; the empty one is where nothing was read yet."""
    return Position.model_validate_json(position) if position else Position()


def _topic_of(parts: Sequence[KafkaPart]) -> Topic:
    return Topic(cluster=parts[0].cluster, name=parts[0].topic, id=parts[0].topic_id, first={}, end={})


def _say_loss(topic: Topic, lost: dict[int, int], rewound: dict[int, int]) -> str:
    told = f"up to {sum(lost.values()):,} messages of {topic.name} expired before they were read; by partition: {json.dumps(lost)}."
    if rewound:
        ends = {partition: topic.end[partition] for partition in rewound}
        told = (
            f"{topic.name} ends before what was read of it: at {json.dumps(ends)}, read up to {json.dumps(rewound)}. Its "
            "brokers lost messages, or cannot tell that it was rebuilt."
        )
    return (
        f"{told} Nothing was committed and the position stands. See why they went; to go on without them, set "
        "accept_loss=True on the source and run ingest again."
    )
