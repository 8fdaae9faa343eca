"""Batches of which a part fails: the rest is answered, and every answered row is written down once."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import httpx
import polars as pl
import pyarrow as pa
import pytest

from perennial.lakehouse.prediction_log import commit_predictions
from perennial.lakehouse.tables import read_snapshot
from perennial.lakehouse.trials import divert, open_trial
from perennial.spec import load_pipeline
from ray_jobs.serve.arrow_rows import STREAM
from tests.conftest import S3
from tests.ray_jobs.serve.replica import FOLDER, ROW, Replica, changed, rows, running_replica, tensors
from tests.ray_jobs.serve.world import NOON, register_model


@pytest.fixture(scope="module")
def canary(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """A replica of which a second version answers half of the requests."""
    with running_replica(s3, tmp_path_factory.mktemp("canary")) as replica:
        tried = register_model(replica.lake, load_pipeline("trips", FOLDER), 2)
        rollout = open_trial(replica.lake, "trips", tried, as_of=NOON, reason="a test")
        divert(replica.lake, rollout, "canary", 0.5, as_of=NOON, reason="a test")
        replica.endpoint._keeper.refresh()
        yield replica


def written_down(replica: Replica, prefix: str) -> list[str]:
    """The request ids of the answered rows."""
    replica.endpoint._log.ship()
    commit_predictions(replica.lake, "trips")
    logged = pl.DataFrame(pl.from_arrow(read_snapshot(replica.lake, replica.lake.table("trips", "predictions"))))
    return sorted(logged.filter(pl.col("request_id").str.starts_with(prefix))["request_id"])


def answered(answers: list[httpx.Response]) -> list[str]:
    """The request ids of those that got scores."""
    found = [answer.json() for answer in answers if answer.status_code == 200]
    return sorted(answer.get("request_id") or answer["id"] for answer in found)


def ids_of(replica: Replica, role: str, prefix: str, count: int) -> list[str]:
    """Request ids that meet the version in this role."""
    choose, names = replica.endpoint._keeper.traffic.choose, (f"{prefix}{n}" for n in range(1_000))
    return list(islice((name for name in names if choose(name)[1] == role), count))


def test_who_was_answered_by_one_version_is_not_answered_again_because_of_one_refused_by_the_other(
    canary: Replica,
) -> None:
    tried, others = ids_of(canary, "canary", "twice-", 15), ids_of(canary, "champion", "twice-", 15)
    asked = [("/predict", rows(ROW, request_id=name)) for name in [*tried, *others[:5]]]
    asked += [("/predict?features=perhaps", rows(ROW, request_id=name)) for name in others[5:10]]
    asked += [("/infer", tensors(ROW, id=name, outputs=[{"name": "x"}])) for name in others[10:]]
    answers = canary.ask_all(asked)
    assert [answer.status_code for answer in answers] == [200] * 20 + [422] * 5 + [400] * 5
    assert len({answer.json()["version"] for answer in answers[:20]}) == 2
    assert written_down(canary, "twice-") == answered(answers)


def test_what_one_version_answered_stands_when_the_log_has_no_room_for_the_other(
    canary: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, statuses = canary.endpoint._log, set()
    for turn in range(12):
        names = [*ids_of(canary, "canary", f"room-{turn}-", 5), *ids_of(canary, "champion", f"room-{turn}-", 5)]
        log.ship()
        monkeypatch.setattr(log, "maximum_bytes", 1_500 * turn)
        answers = canary.ask_all([("/predict", rows(ROW, request_id=name)) for name in names])
        statuses |= {answer.status_code for answer in answers}
        assert written_down(canary, f"room-{turn}-") == answered(answers)
    assert statuses == {200, 503}


@pytest.fixture(scope="module")
def fragile(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """A replica whose feature code raises on one trip, and panics on another."""
    home = tmp_path_factory.mktemp("fragile")
    text = (FOLDER / "trips.py").read_text()
    hour = 'hour=pl.col("start_at").dt.hour()'
    assert hour in text
    raises = 'pl.col("trip").map_elements(lambda n: [0][n == 4_013], return_dtype=pl.Int64)'
    panics = 'pl.col("trip").cast(pl.Datetime("us")).dt.truncate("1mo").dt.day()'
    fragile = f"{hour} + {raises} + 0 * {panics}"
    (home / "trips.py").write_text(text.replace(hour, fragile))
    with running_replica(s3, home, home) as replica:
        yield replica


@pytest.mark.parametrize("trip", [4_013, -(2**63)], ids=["exception", "panic"])
def test_what_feature_code_fails_on_is_a_500_of_that_request_alone(
    fragile: Replica, trip: int, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"fails-{trip}-{n}" for n in range(20)]
    asked = [("/predict", rows(changed(trip=trip if n == 7 else 1), request_id=names[n])) for n in range(20)]
    answers = fragile.ask_all(asked)
    assert [answer.status_code for answer in answers] == [500 if n == 7 else 200 for n in range(20)]
    assert f"request {names[7]} could not be answered" in answers[7].json()["error"]
    assert written_down(fragile, f"fails-{trip}-") == answered(answers)
    told = [record.message for record in caplog.records if "was not answered" in record.message]
    assert len(told) == 1
    assert f"request {names[7]} was not answered: " in told[0]


def test_of_many_classes_every_form_of_answer_says_which_column_is_which(s3: S3, tmp_path: Path) -> None:
    text = (FOLDER / "trips.py").read_text()
    text = text.replace('pl.col("minutes") > 20', '(pl.col("minutes") / 20).cast(pl.Int64)')
    text = text.replace('task="binary"', 'task="multiclass"')
    (tmp_path / "trips.py").write_text(text)
    with running_replica(s3, tmp_path, tmp_path) as replica:
        plain = replica.ask("/predict", rows(ROW)).json()
        assert plain["classes"] == ["long", "middling", "short"]
        described = replica.ask(f"/versions/{replica.version}").json()
        assert described["classes"] == plain["classes"]
        assert described["outputs"] == [{"name": "score", "datatype": "FP64", "shape": [-1, 3]}]
        answer = replica.ask("/predict", rows(ROW), accept=STREAM)
        metadata = pa.ipc.open_stream(answer.content).schema.metadata
        assert json.loads(metadata[b"classes"]) == plain["classes"]
