"""What the brokers of a Kafka cluster say of a topic, and the settings that every client of them gets."""

import logging
from typing import Any

from pydantic import BaseModel

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.secrets import SecretRef, open_secret
from perennial.spec.kafka import Kafka

TIMEOUT_MILLISECONDS = "30000"  # for one question to the brokers, unless the source sets socket.timeout.ms
LOGGER = logging.getLogger("perennial.kafka")
EXACT = {
    "auto.offset.reset": "error",  # any other value skips what expired in silence, or reads it twice
    "enable.auto.commit": "false",
    "enable.partition.eof": "true",  # the only sign of a range's end where its last offsets hold no message
}
_NO_TOPIC_ID = "AAAAAAAAAAAAAAAAAAAAAA"  # what brokers before 2.8 answer


class Topic(BaseModel, frozen=True):
    """A topic as its brokers describe it: by partition the first offset they still have, and the one after the last."""

    cluster: str
    name: str
    id: str
    first: dict[int, int]
    end: dict[int, int]


class KafkaUnavailable(RuntimeError):
    """The brokers did not answer, or refused. Nothing was read and nothing committed; the position stands."""


def describe_topic(lake: Lake, source: Kafka) -> Topic:
    """Ask the brokers which topic this is and which offsets they have.

    Raises:
        KafkaUnavailable: they do not answer, or there is no such topic.
    """
    from confluent_kafka import IsolationLevel, KafkaException, TopicCollection, TopicPartition
    from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # not in its __all__

    settings = client_settings(lake, source)
    seconds = float(settings["socket.timeout.ms"]) / 1000
    wait: dict[str, Any] = {"request_timeout": seconds}
    try:
        cluster = _ask_metadata(settings, source, seconds)
        topic = cluster.topics[source.topic]
        if topic.error:
            raise KafkaException(topic.error)
        client, topic_id = AdminClient({**settings}, logger=LOGGER), _NO_TOPIC_ID
        if cluster.controller_id >= 0:  # without a controller the question waits for one until it times out
            asked = client.describe_topics(TopicCollection([source.topic]), **wait)
            topic_id = str(asked[source.topic].result(seconds).topic_id)
        places = [TopicPartition(source.topic, partition) for partition in sorted(topic.partitions)]
        # "read committed": the end is where the first open transaction begins
        committed = {**wait, "isolation_level": IsolationLevel.READ_COMMITTED}
        earliest, latest = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]  # it has no types
        first = client.list_offsets(dict.fromkeys(places, earliest), **committed)
        end = client.list_offsets(dict.fromkeys(places, latest), **committed)
        return Topic(
            cluster=cluster.cluster_id or "",
            name=source.topic,
            id=topic_id.replace(_NO_TOPIC_ID, ""),
            first={place.partition: answer.result(seconds).offset for place, answer in first.items()},
            end={place.partition: answer.result(seconds).offset for place, answer in end.items()},
        )
    except (KafkaException, TimeoutError) as error:
        raise unavailable(source, error) from error


def _ask_metadata(settings: dict[str, str], source: Kafka, seconds: float) -> Any:
    """What the brokers say of the cluster and the topic; where they do not, why, as their connections told it."""
    from confluent_kafka import Consumer, KafkaException

    # a consumer asks, because the admin client's question would make the topic where brokers do that by themselves
    told: list[Any] = []
    consumer = Consumer({**settings, "error_cb": told.append}, logger=LOGGER)
    try:
        return consumer.list_topics(source.topic, timeout=seconds)
    except KafkaException as error:
        consumer.poll(0)  # the question says only that it failed; what failed comes as an event
        raise unavailable(source, RuntimeError("; ".join(map(str, [error, *told])))) from error
    finally:
        consumer.close()


def client_settings(lake: Lake, source: Kafka) -> dict[str, str]:
    """librdkafka's settings for the source, secrets opened. Never log them."""
    secrets = {
        name: open_secret(SecretRef(name=secret), lake.secrets_dir).get_secret_value()
        for name, secret in source.secrets.items()
    }
    # a consumer must name a group; as partitions are assigned and nothing is committed, no group comes into being
    defaults = {"group.id": "perennial", "socket.timeout.ms": TIMEOUT_MILLISECONDS}
    return {**defaults, **source.settings, **secrets, "bootstrap.servers": source.servers, **EXACT}


def unavailable(source: Kafka, error: Exception) -> KafkaUnavailable:
    """The error with where it happened and what to do."""
    return KafkaUnavailable(
        f"topic {source.topic} at {source.servers}: {error or type(error).__name__}. Nothing was committed and the position "
        "stands. See that the brokers answer and that servers, settings and secrets of the source are right; then run "
        "ingest again."
    )
