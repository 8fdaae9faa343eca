"""A Kafka cluster for tests: the one inside librdkafka, which speaks the real protocol on loopback.

confluent-kafka can start one by a setting, but only its C interface makes topics, forgets messages or rebuilds a topic.
"""

import ctypes
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka import Producer

_PRODUCER = 0
_CONTROLLER = 1


def _library() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    library = ctypes.CDLL(str(next(folder.glob("librdkafka*"))))
    library.rd_kafka_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return library


class Brokers:
    """One running cluster of one broker."""

    def __init__(self) -> None:
        self.library = _library()
        reason = ctypes.create_string_buffer(512)
        self.client = ctypes.c_void_p(self.library.rd_kafka_new(_PRODUCER, None, reason, len(reason)))
        self.cluster = ctypes.c_void_p(self.library.rd_kafka_mock_cluster_new(self.client, 1))
        self.library.rd_kafka_mock_set_controller_id(self.cluster, _CONTROLLER)
        self.servers = str(self.library.rd_kafka_mock_cluster_bootstraps(self.cluster).decode())

    def make(self, topic: str, partitions: int = 2) -> None:
        """A new topic; under a name that was deleted, another one."""
        assert self.library.rd_kafka_mock_topic_create(self.cluster, topic.encode(), partitions, 1) == 0

    def delete(self, topic: str) -> None:
        """The topic and its messages are gone."""
        assert self.library.rd_kafka_mock_topic_delete(self.cluster, topic.encode()) == 0

    def expire(self, topic: str, partition: int, before: int) -> None:
        """Messages below an offset are gone, as after the retention time."""
        asked = (self.cluster, topic.encode(), partition, ctypes.c_int64(before))
        assert self.library.rd_kafka_mock_partition_delete_records(*asked) == 0

    def forget_topic_ids(self) -> None:
        """From now on like a broker that has no ids for topics."""
        assert self.library.rd_kafka_mock_set_controller_id(self.cluster, -1) == 0

    def stop(self) -> None:
        """No broker answers any more, and what they held is gone."""
        self.library.rd_kafka_mock_cluster_destroy(self.cluster)
        self.library.rd_kafka_destroy(self.client)

    def send(self, topic: str, messages: Iterable[Any], partition: int = 0, **more: Any) -> None:
        """Put messages into a partition: bytes as they are, None, or what JSON can hold."""
        producer = Producer({"bootstrap.servers": self.servers, "linger.ms": 1})
        for message in messages:
            value = message if isinstance(message, bytes | None) else json.dumps(message).encode()
            producer.produce(topic, value, partition=partition, **more)
            producer.poll(0)
        assert producer.flush(30) == 0


@contextmanager
def running_brokers() -> Iterator[Brokers]:
    """A cluster for as long as the block runs."""
    brokers = Brokers()
    try:
        yield brokers
    finally:
        brokers.stop()
