"""Ranges of offsets, read from the cluster inside librdkafka: all their messages and no other."""

import json
from collections.abc import Iterator

import pandera.polars as pa
import polars as pl
import pytest

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.sources.brokers import KafkaUnavailable
from perennial.lakehouse.sources.kafka import KafkaPart, MessagesLost, cut_parts, new_parts
from perennial.spec import Kafka
from ray_jobs.ingest.kafka import MESSAGES_AT_ONCE, Limit, read_kafka, rounds
from tests.brokers import Brokers, running_brokers


class Number(pa.DataFrameModel):
    """Grain: one number."""

    number: int


@pytest.fixture(scope="module")
def brokers() -> Iterator[Brokers]:
    with running_brokers() as brokers:
        yield brokers


def numbers(brokers: Brokers, topic: str) -> Kafka:
    return Kafka(topic, topic=topic, servers=brokers.servers, contract=Number, key=["number"])


def sent(brokers: Brokers, topic: str, partitions: int, count: int) -> Kafka:
    brokers.make(topic, partitions)
    for partition in range(partitions):
        brokers.send(topic, [{"number": partition * count + number} for number in range(count)], partition)
    return numbers(brokers, topic)


def cut(part: KafkaPart, *ranges: tuple[int, int]) -> list[KafkaPart]:
    return [part.model_copy(update={"start": start, "end": end}) for start, end in ranges]


def read(lake: Lake, source: Kafka, parts: list[KafkaPart], block_bytes: int = 2**20) -> pl.DataFrame:
    return pl.concat(rows for rows, _ in read_kafka(lake, source, parts, block_bytes, Limit()))


def test_ranges_of_several_partitions_bring_their_messages_and_no_other(lake: Lake, brokers: Brokers) -> None:
    source = sent(brokers, "ranges", partitions=3, count=100)
    first, second, third = new_parts(lake, source, "")
    parts = [*cut(first, (10, 20), (30, 31)), *cut(second, (0, 100)), *cut(third, (99, 100), (0, 1))]
    rows = read(lake, source, parts)
    wanted = [*range(10, 20), 30, *range(100, 200), 299, 200]
    assert sorted(rows["number"].cast(pl.Int64)) == sorted(wanted)
    assert sorted(rows["_position"]) == sorted(f"ranges[{number // 100}]@{number % 100}" for number in wanted)


def test_messages_that_arrive_meanwhile_are_left_to_the_next_batch(lake: Lake, brokers: Brokers) -> None:
    source = sent(brokers, "busy", partitions=2, count=50)
    parts = new_parts(lake, source, "")
    brokers.send("busy", [{"number": -1}] * 500, 0)
    assert sorted(read(lake, source, parts)["number"].cast(pl.Int64)) == list(range(100))


def test_a_block_ends_where_it_is_large_enough(lake: Lake, brokers: Brokers) -> None:
    brokers.make("large", 4)
    for partition in range(4):
        brokers.send("large", [{"number": 1}] * 5_000, partition)
    source = numbers(brokers, "large")
    blocks = [len(rows) for rows, _ in read_kafka(lake, source, new_parts(lake, source, ""), 1024, Limit())]
    assert sum(blocks) == 20_000
    assert max(blocks) <= MESSAGES_AT_ONCE


def test_messages_that_expire_after_planning_are_not_skipped(lake: Lake, brokers: Brokers) -> None:
    source = sent(brokers, "late", partitions=1, count=10)
    parts = new_parts(lake, source, "")
    brokers.expire("late", 0, before=5)
    with pytest.raises(MessagesLost, match="running ingest again says how many"):
        read(lake, source, parts)


def test_a_topic_that_is_rebuilt_while_it_is_read_brings_nothing(lake: Lake, brokers: Brokers) -> None:
    source = sent(brokers, "swapped", partitions=1, count=10)
    parts = new_parts(lake, source, "")
    brokers.delete("swapped")
    sent(brokers, "swapped", partitions=1, count=10)
    with pytest.raises(KafkaUnavailable, match="the topic was rebuilt while it was read"):
        read(lake, source, parts)


def test_a_round_reads_a_partition_at_one_place() -> None:
    part = KafkaPart(cluster="c", topic="t", topic_id="", partition=0, start=0, end=9)
    other = part.model_copy(update={"partition": 1})
    parts = [*cut(part, (0, 3), (3, 6)), other]
    assert [[(p.partition, p.start) for p in ranges] for ranges in rounds(parts)] == [[(0, 0), (1, 0)], [(0, 3)]]


def test_a_reader_stops_at_its_limit_and_says_where(lake: Lake, brokers: Brokers) -> None:
    brokers.make("limited", 2)
    for partition in range(2):
        brokers.send(
            "limited", [json.dumps({"number": n, "more": "x" * 10_000}).encode() for n in range(300)], partition
        )
    source, limit = numbers(brokers, "limited"), Limit(2_000_000)
    parts = new_parts(lake, source, "")
    rows = pl.concat(rows for rows, _ in read_kafka(lake, source, parts, 2**20, limit))
    kept, again = cut_parts(parts, limit.reached)
    assert 190 < len(rows) < 450  # the first call takes a hundred messages, whatever their size
    assert sum(part.weight for part in kept) == len(rows)
    assert (kept[0].waiting, again) == (600 - len(rows), False)
    rest = cut_rest(parts, kept)
    both = pl.concat([rows, read(lake, source, rest)])
    assert sorted(both["_position"]) == sorted(f"limited[{p}]@{n}" for p in range(2) for n in range(300))


def cut_rest(parts: list[KafkaPart], kept: list[KafkaPart]) -> list[KafkaPart]:
    """What of the parts was not kept."""
    ends = {part.partition: part.end for part in kept}
    return [part.model_copy(update={"start": ends.get(part.partition, part.start)}) for part in parts]
