"""Messages of a real (small) cluster through a real Prefect server, Ray, S3 and catalog, into raw or quarantine, once."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from flows.ingest import ingest
from flows.settings import Settings
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.raw import read_known
from perennial.lakehouse.sources.kafka import MessagesLost
from perennial.spec import load_pipeline
from tests.brokers import Brokers, running_brokers
from tests.shop import NOON
from tests.web import declare, rows, send


@pytest.fixture
def brokers() -> Iterator[Brokers]:
    with running_brokers() as brokers:
        brokers.make("clicks", 3)
        yield brokers


@pytest.fixture
def web(settings: Settings, brokers: Brokers) -> Settings:
    """Settings with a pipeline `web` that reads the topic `clicks`."""
    declare(settings.pipelines_dir, brokers)
    return settings


def brought(settings: Settings) -> int:
    return ingest("web", "clicks", NOON, settings=settings)["clicks"]


def test_every_message_is_published_or_quarantined_with_its_place_and_a_rerun_publishes_nothing(
    web: Settings, lake: Lake, brokers: Brokers
) -> None:
    send(brokers, 0, 5, partition=0)
    send(brokers, 5, 5, partition=1)
    poison = [b"nope", b"", None, b"\xff\x00", {"click_id": "x", "at": "2024-05-01", "colour": "red"}, [1]]
    brokers.send("clicks", poison, partition=1, key=b"p")
    send(brokers, 10, 2, partition=1)
    assert brought(web) == 12
    raw, quarantine = rows(lake, "raw_clicks"), rows(lake, "quarantine")
    assert sorted(raw["click_id"]) == list(range(12))
    places = dict(raw.select("_position", "click_id").iter_rows())
    assert (places["clicks[0]@4"], places["clicks[1]@0"], places["clicks[1]@11"]) == (4, 5, 10)
    assert raw["kafka_key"].unique().to_list() == ["k"]
    assert raw["kafka_timestamp"].dt.timestamp("ms").unique().to_list() == [1_700_000_000_000]
    failed = {
        row["position"]: (row["failed_checks"], json.loads(row["raw_row"])) for row in quarantine.iter_rows(named=True)
    }
    assert sorted(failed) == [f"clicks[1]@{offset}" for offset in (10, 5, 6, 7, 8, 9)]
    assert [failed[f"clicks[1]@{offset}"][0] for offset in (5, 6, 7, 8, 10)] == [
        ["json:syntax"],
        ["json:syntax"],
        ["kafka:no_value"],
        ["json:syntax"],
        ["json:object"],
    ]
    assert failed["clicks[1]@5"][1]["message"] == "nope"
    assert failed["clicks[1]@8"][1]["message_base64"] == "/wA="
    checks, kept = failed["clicks[1]@9"]
    assert checks[0].startswith("click_id:type")
    assert (kept["click_id"], kept["colour"]) == ("x", "red")
    assert brought(web) == 0
    send(brokers, 12, 3, partition=2)
    assert brought(web) == 3
    assert sorted(rows(lake, "raw_clicks")["click_id"]) == list(range(15))


def test_a_run_brings_its_maximum_and_the_next_ones_the_rest(web: Settings, lake: Lake, brokers: Brokers) -> None:
    send(brokers, 0, 1_500, partition=0)
    send(brokers, 1_500, 100, partition=1)
    assert [brought(web) for _ in range(3)] == [1_000, 600, 0]
    assert sorted(rows(lake, "raw_clicks")["click_id"]) == list(range(1_600))


def test_two_runs_at_once_publish_every_message_once(web: Settings, lake: Lake, brokers: Brokers) -> None:
    send(brokers, 0, 300, partition=0)
    send(brokers, 300, 300, partition=2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: brought(web), range(2)))
    assert sorted(rows(lake, "raw_clicks")["click_id"]) == list(range(600))


def test_expired_messages_fail_the_run_until_their_loss_is_accepted(
    web: Settings, lake: Lake, brokers: Brokers
) -> None:
    send(brokers, 0, 5)
    assert brought(web) == 5
    send(brokers, 5, 10)
    brokers.expire("clicks", 0, before=8)
    with pytest.raises(MessagesLost, match="up to 3 messages of clicks expired"):
        brought(web)
    declare(web.pipelines_dir, brokers, "accept_loss=True")
    assert brought(web) == 7
    assert sorted(rows(lake, "raw_clicks")["click_id"]) == [*range(5), *range(8, 15)]


def test_the_later_of_two_messages_with_one_key_is_what_is_known(web: Settings, lake: Lake, brokers: Brokers) -> None:
    at = {"click_id": 7, "at": "2024-05-01T12:00:00Z"}
    brokers.send("clicks", [{**at, "page": f"/{number}"} for number in range(11)], key=b"7")
    assert brought(web) == 11
    known = read_known(lake, load_pipeline("web", web.pipelines_dir), "clicks", NOON)
    assert known["page"].to_list() == ["/10"]


def test_a_run_brings_in_so_many_bytes_and_the_next_ones_the_rest(web: Settings, lake: Lake, brokers: Brokers) -> None:
    declare(web.pipelines_dir, brokers, "maximum_bytes=300_000")
    for partition in range(3):
        clicks = [
            {"click_id": partition * 400 + n, "at": "2024-05-01T12:00:00Z", "page": "x" * 2_000} for n in range(400)
        ]
        brokers.send("clicks", clicks, partition, key=b"k")
    counts = [brought(web)]
    while counts[-1]:
        counts.append(brought(web))
    assert sum(counts) == 1200
    assert len(counts) > 4
    assert max(counts) < 500
    assert sorted(rows(lake, "raw_clicks")["click_id"]) == list(range(1200))
