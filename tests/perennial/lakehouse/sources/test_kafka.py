"""What is new in a topic, against a real lakehouse and the cluster inside librdkafka."""

from collections.abc import Iterator
from typing import Any

import pandera.polars as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.positions import Batch
from perennial.lakehouse.sources.brokers import KafkaUnavailable, Topic, client_settings
from perennial.lakehouse.sources.kafka import (
    PART_MESSAGES,
    KafkaPart,
    MessagesLost,
    Position,
    alarm,
    cut_parts,
    describe,
    new_parts,
    plan_parts,
    position_after,
    read_position,
    share_out,
    source_id,
)
from perennial.spec import Kafka
from tests.brokers import Brokers, running_brokers
from tests.shop import NOON


class Click(pa.DataFrameModel):
    """Grain: one click."""

    click_id: int


@pytest.fixture(scope="module")
def brokers() -> Iterator[Brokers]:
    with running_brokers() as brokers:
        yield brokers


def clicks(topic: str = "clicks", servers: str = "localhost:1", **more: Any) -> Kafka:
    return Kafka("clicks", topic=topic, servers=servers, contract=Click, key=["click_id"], **more)


def topic(first: dict[int, int], end: dict[int, int], topic_id: str = "a", cluster: str = "c") -> Topic:
    return Topic(cluster=cluster, name="clicks", id=topic_id, first=first, end=end)


def read_to(nexts: dict[int, int], topic_id: str = "a", cluster: str = "c") -> Position:
    return Position(cluster=cluster, topic="clicks", topic_id=topic_id, next=nexts)


def ranges(parts: list[KafkaPart]) -> list[tuple[int, int, int]]:
    return [(part.partition, part.start, part.end) for part in parts]


def committed(parts: list[KafkaPart], previous: str = "") -> str:
    """The position in the table once the parts are."""
    batch = Batch(
        pipeline="web",
        source="clicks",
        source_id="",
        batch_id="b",
        previous=previous,
        parts=list(parts),
        contents="",
        as_of=NOON,
    )
    return position_after(batch)


def test_what_is_new_lies_between_the_position_and_the_end(lake: Lake, brokers: Brokers) -> None:
    source = clicks("news", brokers.servers)
    brokers.make("news", 2)
    brokers.send("news", [{}] * 5, partition=0)
    parts = new_parts(lake, source, "")
    assert ranges(parts) == [(0, 0, 5)]
    position = committed(parts)
    assert new_parts(lake, source, position) == []
    brokers.send("news", [{}] * 2, partition=1)
    parts = new_parts(lake, source, position)
    assert ranges(parts) == [(1, 0, 2)]
    assert read_position(committed(parts, position)).next == {0: 5, 1: 2}
    assert read_position(committed(parts, position)).read == {1: (0, 2, 0)}


def test_a_rebuilt_topic_is_read_from_its_start_and_said_aloud(lake: Lake, brokers: Brokers) -> None:
    source = clicks("rebuilt", brokers.servers)
    brokers.make("rebuilt", 1)
    brokers.send("rebuilt", [{}] * 5)
    parts = new_parts(lake, source, "")
    position, first_id = committed(parts), source_id(parts)
    brokers.delete("rebuilt")
    brokers.make("rebuilt", 1)
    brokers.send("rebuilt", [{}] * 7)
    parts = new_parts(lake, source, position)
    assert ranges(parts) == [(0, 0, 7)]
    assert source_id(parts) != first_id
    assert "rebuilt is another topic than before" in alarm(position, parts)
    assert read_position(committed(parts, position)).next == {0: 7}


def test_the_same_topic_of_a_fresh_cluster_is_read_from_its_start(lake: Lake, brokers: Brokers) -> None:
    brokers.make("moved", 1)
    brokers.send("moved", [{}] * 5)
    position = committed(new_parts(lake, clicks("moved", brokers.servers), ""))
    with running_brokers() as others:
        others.make("moved", 1)
        others.send("moved", [{}] * 6)
        parts = new_parts(lake, clicks("moved", others.servers), position)
    assert ranges(parts) == [(0, 0, 6)]


def test_expired_messages_stop_the_run_with_their_count_unless_their_loss_is_accepted(
    lake: Lake, brokers: Brokers
) -> None:
    brokers.make("expired", 2)
    brokers.send("expired", [{}] * 10)
    position = committed(new_parts(lake, clicks("expired", brokers.servers, maximum_messages=2), ""))
    brokers.expire("expired", 0, before=6)
    with pytest.raises(
        MessagesLost, match=r'up to 4 messages of expired.*\{"0": 4\}.*position stands.*accept_loss=True'
    ):
        new_parts(lake, clicks("expired", brokers.servers), position)
    parts = new_parts(lake, clicks("expired", brokers.servers, accept_loss=True), position)
    assert ranges(parts) == [(0, 6, 10)]
    assert "Up to 4 messages of expired expired before they were read and are LOST" in alarm(position, parts)
    assert read_position(committed(parts, position)).read == {0: (6, 10, 4)}


def test_brokers_that_do_not_answer_are_a_technical_failure(lake: Lake, brokers: Brokers) -> None:
    with pytest.raises(KafkaUnavailable, match=r"topic clicks at localhost:1: .*Connection refused.*run ingest again"):
        new_parts(lake, clicks(settings={"socket.timeout.ms": "200"}), "")
    with pytest.raises(KafkaUnavailable, match="Unknown topic or partition"):
        new_parts(lake, clicks("nowhere", brokers.servers), "")


def test_a_topic_met_for_the_first_time_has_lost_nothing() -> None:
    assert ranges(plan_parts(topic({0: 100}, {0: 120}), Position(), clicks())) == [(0, 100, 120)]


def test_a_partition_added_later_is_read_from_offset_0() -> None:
    grown = topic({0: 0, 1: 0}, {0: 5, 1: 3})
    assert ranges(plan_parts(grown, read_to({0: 5}), clicks())) == [(1, 0, 3)]
    with pytest.raises(MessagesLost, match=r'\{"1": 2\}'):
        plan_parts(topic({0: 0, 1: 2}, {0: 5, 1: 3}), read_to({0: 5}), clicks())


def test_a_partition_that_was_empty_when_the_topic_was_met_has_lost_nothing_later() -> None:
    position = read_position(committed(plan_parts(topic({0: 0, 1: 70}, {0: 5, 1: 70}), Position(), clicks())))
    assert position.next == {0: 5, 1: 70}
    assert ranges(plan_parts(topic({0: 0, 1: 70}, {0: 5, 1: 71}), position, clicks())) == [(1, 70, 71)]


def test_a_topic_that_ends_before_its_position_stops_the_run() -> None:
    with pytest.raises(MessagesLost, match=r'ends before what was read of it: at \{"0": 3\}, read up to \{"0": 5\}'):
        plan_parts(topic({0: 0}, {0: 3}), read_to({0: 5}), clicks())
    accepting = clicks(accept_loss=True)
    assert plan_parts(topic({0: 0}, {0: 3}), read_to({0: 5}), accepting) == []  # it brings again what the table has
    nameless = topic({0: 0}, {0: 3}, topic_id="")
    assert ranges(plan_parts(nameless, read_to({0: 5}, topic_id=""), accepting)) == [(0, 0, 3)]


def test_topic_ids_that_brokers_learn_to_tell_do_not_make_another_topic() -> None:
    assert plan_parts(topic({0: 0}, {0: 5}), read_to({0: 5}, topic_id=""), clicks()) == []
    assert ranges(plan_parts(topic({0: 0}, {0: 5}), read_to({0: 5}, topic_id="b"), clicks())) == [(0, 0, 5)]


def test_a_partition_with_very_many_messages_is_read_at_several_places() -> None:
    end = 2 * PART_MESSAGES + 10
    parts = plan_parts(topic({0: 0, 1: 4}, {0: end, 1: 4}), Position(), clicks(maximum_messages=end - 1))
    assert ranges(parts) == [
        (0, 0, PART_MESSAGES),
        (0, PART_MESSAGES, 2 * PART_MESSAGES),
        (0, 2 * PART_MESSAGES, end - 1),
    ]
    assert describe(parts) == f"{end - 1:,} messages of 1 partitions of clicks, 1 wait for the next run"
    position = read_position(committed(parts))
    assert (position.next, position.read) == ({0: end - 1, 1: 4}, {0: (0, end - 1, 0)})


@settings(deadline=None)
@given(wanted=st.dictionaries(st.integers(0, 50), st.integers(0, 1_000), max_size=20), maximum=st.integers(1, 5_000))
def test_partitions_share_a_batch_fairly_and_fully(wanted: dict[int, int], maximum: int) -> None:
    shares = share_out(wanted, maximum)
    assert sum(shares.values()) == min(maximum, sum(wanted.values()))
    assert all(shares[partition] <= messages for partition, messages in wanted.items())
    cut = [shares[partition] for partition in wanted if shares[partition] < wanted[partition]]
    assert max(cut, default=0) - min(cut, default=0) <= 1
    assert all(share <= min(cut, default=share) + 1 for share in shares.values() if cut)


def test_a_secret_is_opened_where_the_client_is_made_and_exactness_cannot_be_set_away(lake: Lake) -> None:
    source = clicks(secrets={"sasl.password": "s3_secret_key"}, settings={"security.protocol": "SASL_SSL"})
    assert lake.secrets_dir is not None
    opened = client_settings(lake, source)
    assert opened["sasl.password"] == (lake.secrets_dir / "s3_secret_key").read_text()
    assert opened["auto.offset.reset"] == "error"
    assert "s3_secret_key" in repr(source)
    assert opened["sasl.password"] not in repr(source)
    with pytest.raises(ValueError, match=r"'auto.offset.reset' is Perennial's own"):
        clicks(settings={"auto.offset.reset": "earliest"})
    with pytest.raises(ValueError, match=r"'sasl.password' is a secret: name it in secrets="):
        clicks(settings={"sasl.password": "hunter2"})


def part(partition: int, start: int, end: int, lost: int = 0) -> KafkaPart:
    return KafkaPart(cluster="c", topic="clicks", topic_id="a", partition=partition, start=start, end=end, lost=lost)


def test_parts_end_where_their_readers_stopped_and_the_rest_waits() -> None:
    parts = [part(0, 0, 100), part(1, 0, 100), part(2, 5, 100, lost=5)]
    reached = {parts[1].identity: 30, parts[2].identity: 5}
    kept, again = cut_parts(parts, reached)
    assert ranges(kept) == [(0, 0, 100), (1, 0, 30)]
    assert (kept[0].waiting, kept[0].idle, again) == (
        165,
        {2: 0},
        False,
    )  # its loss is told once messages behind it are read


def test_what_was_read_behind_a_gap_is_read_again() -> None:
    parts = [part(0, 0, 100), part(0, 100, 200), part(0, 200, 300)]
    stopped = {parts[0].identity: 40, parts[1].identity: 100, parts[2].identity: 200}
    assert cut_parts(parts, stopped)[1] is False
    kept, again = cut_parts(parts, stopped | {parts[1].identity: 150})
    assert (ranges(kept), again) == ([(0, 0, 40)], True)
    assert cut_parts(parts, {parts[0].identity: 40})[1] is True
