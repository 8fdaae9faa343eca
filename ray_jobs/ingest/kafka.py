"""Messages of a batch as blocks of rows: ranges of offsets, read by assignment."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import polars as pl

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.sources.brokers import LOGGER, client_settings, describe_topic, unavailable
from perennial.lakehouse.sources.kafka import KafkaPart, MessagesLost
from perennial.spec.kafka import Kafka
from ray_jobs.ingest.messages import Messages, decode

BLOCK_BYTES = 32 * 1024 * 1024  # of messages: as Python objects and as columns at once they take three times as much
CLIENT = {
    "queued.max.messages.kbytes": "16384",  # read ahead; a source may set its own
    "fetch.queue.backoff.ms": "20",  # the default waits a second whenever so much was read ahead
    "fetch.wait.max.ms": "50",  # what is asked for is there already
}
MESSAGES_AT_ONCE = 10_000
BYTES_AT_ONCE = 8 * 1024 * 1024  # about: as many messages are asked for as the last ones' size allows
WAIT_SECONDS = 0.5  # how long one call may fill up; it is reached only where a range's last offsets hold no message
PATIENCE_SECONDS = 60.0  # without a single message, after which the brokers count as gone


@dataclass
class Limit:
    """Bytes of messages that one reader may still read; `reached` tells where it had to stop, by its parts' identities."""

    bytes: float = math.inf
    reached: dict[str, int] = field(default_factory=dict)


def read_kafka(
    lake: Lake, source: Kafka, parts: Sequence[KafkaPart], block_bytes: int, limit: Limit
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield blocks of (rows, messages that are none), as `decode` does, until all are read or the limit is reached.

    Raises:
        KafkaUnavailable: the brokers stopped answering, or the topic was rebuilt meanwhile.
        MessagesLost: messages expired since the batch was planned.
    """
    from confluent_kafka import Consumer

    waiting = Messages.of(source)
    settings = {**CLIENT, **client_settings(lake, source)}
    with closing(Consumer(settings, logger=LOGGER)) as consumer:
        for ranges in rounds(parts):
            for messages in _consume(consumer, source, ranges, limit):
                waiting.add(messages)
                if waiting.bytes >= min(block_bytes, BLOCK_BYTES):
                    yield decode(source, waiting)
                    waiting = Messages.of(source)
    topic = describe_topic(lake, source)
    if (topic.cluster, topic.id) != (parts[0].cluster, parts[0].topic_id):
        raise unavailable(source, RuntimeError("the topic was rebuilt while it was read"))
    if waiting.values:
        yield decode(source, waiting)


def rounds(parts: Sequence[KafkaPart]) -> list[list[KafkaPart]]:
    """The parts such that no round has two of one partition: a consumer reads a partition at one place at a time."""
    by_partition: dict[int, list[KafkaPart]] = {}
    for part in parts:
        by_partition.setdefault(part.partition, []).append(part)
    return [[part for part in parts if part] for parts in zip_longest(*by_partition.values())]


def _consume(consumer: Any, source: Kafka, ranges: list[KafkaPart], limit: Limit) -> Iterator[list[Any]]:
    """Yield the messages of the ranges, all of them and no other; those up to the limit where it is reached."""
    from confluent_kafka import TopicPartition

    if limit.bytes <= 0:
        limit.reached.update({part.identity: part.start for part in ranges})
        return
    ends = {part.partition: part.end for part in ranges}
    nexts = {part.partition: part.start for part in ranges}
    places = [TopicPartition(source.topic, part.partition, part.start) for part in ranges]
    consumer.assign(places)
    consumer.resume(places)  # a partition that an earlier round paused stays so through an assignment
    heard, at_once = time.monotonic(), 100
    while ends and limit.bytes > 0:
        missing = sum(end - nexts[partition] for partition, end in ends.items())
        answers = consumer.consume(min(missing, at_once), timeout=WAIT_SECONDS)
        messages = [message for message in answers if message.error() is None]
        if len(messages) < len(answers):
            nexts.update(_ended(source, [message for message in answers if message.error() is not None]))
        # of several messages of a partition the last one counts, and they come in the order of their offsets
        reached = dict(zip((m.partition() for m in messages), (m.offset() for m in messages), strict=True))
        nexts.update({partition: offset + 1 for partition, offset in reached.items()})
        if any(offset >= ends.get(partition, 0) for partition, offset in reached.items()):
            messages = [message for message in messages if message.offset() < ends.get(message.partition(), 0)]
        if messages:
            size = sum(len(message) for message in messages)
            limit.bytes -= size
            room = min(BYTES_AT_ONCE, limit.bytes) * len(messages) / max(size, 1)
            at_once = max(1, min(MESSAGES_AT_ONCE, int(room)))
            yield messages
        if answers:
            heard = time.monotonic()
        elif time.monotonic() - heard > PATIENCE_SECONDS:
            raise unavailable(
                source, TimeoutError(f"no message for {PATIENCE_SECONDS:.0f} s; read up to {nexts} of {ends}")
            )
        done = [partition for partition, end in ends.items() if nexts[partition] >= end]
        if done:
            consumer.pause([TopicPartition(source.topic, partition) for partition in done])
        for partition in done:
            del ends[partition]
    limit.reached.update({part.identity: nexts[part.partition] for part in ranges if part.partition in ends})


def _ended(source: Kafka, answers: list[Any]) -> dict[int, int]:
    """The next offsets of partitions that were read to their ends: of what comes without a message, all that is no error."""
    from confluent_kafka import KafkaError

    for error in (answer.error() for answer in answers):
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise MessagesLost(
                f"{source.topic}: messages expired while they were read ({error.str()}). Nothing was committed and the "
                "position stands; running ingest again says how many were lost."
            )
        if error.code() != KafkaError._PARTITION_EOF:
            raise unavailable(source, RuntimeError(error.str()))
    return {answer.partition(): answer.offset() for answer in answers}
