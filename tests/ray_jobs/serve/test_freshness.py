"""A replica whose sources have a declared freshness: what it says, and does, once they are older."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from perennial.lakehouse.commit import append_once
from perennial.lakehouse.tables import read_snapshot
from tests.conftest import S3
from tests.ray_jobs.serve.replica import FOLDER, ROW, Replica, changed, rows, running_replica, tensors

LONG_SILENT = "source 'weather' is stale: its newest row became known"


@contextmanager
def declared(s3: S3, home: Path, words: str) -> Iterator[Replica]:
    """A replica of `trips` with other words in its Serving()."""
    text = (FOLDER / "trips.py").read_text()
    assert "Serving(replicas=2" in text
    (home / "trips.py").write_text(text.replace("Serving(replicas=2", f"Serving({words}, replicas=2"))
    with running_replica(s3, home, home) as replica:
        yield replica


def weather_of_now(replica: Replica) -> None:
    """Newer rows, as an ingest would bring them."""
    weather = replica.lake.table("trips", "raw_weather")
    known = pl.DataFrame(pl.from_arrow(read_snapshot(replica.lake, weather)))
    newer = known.tail(3).with_columns(_known_at=pl.lit(datetime.now(UTC)).cast(pl.Datetime("us", "UTC")))
    append_once(replica.lake, weather, newer.to_arrow(), "newer")


def test_beyond_its_freshness_a_source_is_told_in_every_answer(s3: S3, tmp_path: Path) -> None:
    with declared(s3, tmp_path, "freshness={'weather': timedelta(hours=6)}") as replica:
        plain, tensor = replica.ask("/predict", rows(ROW)), replica.ask("/infer", tensors(ROW))
        assert [plain.status_code, tensor.status_code] == [200, 200]
        assert [plain.headers["x-stale"], tensor.headers["x-stale"]] == ["weather", "weather"]
        assert "its freshness is 6 hours" in plain.json()["stale"]["weather"]
        assert list(plain.json()["stale"]) == ["weather"], "of stations no freshness is declared"
        told = replica.endpoint.metadata()
        assert told is not None
        assert (told["tables"]["weather"]["stale"], told["tables"]["stations"]["stale"]) == (True, False)
        assert told["tables"]["weather"]["newest_known_seconds"] > 6 * 3600

        brought = replica.ask("/predict", rows(changed(weather_rain_mm=2.0)))
        assert "stale" not in brought.json(), "who brings the columns does not get them from a stale source"

        weather_of_now(replica)
        replica.endpoint._keeper.refresh()
        fresh = replica.ask("/predict", rows(ROW))
        assert ("stale" in fresh.json(), "x-stale" in fresh.headers) == (False, False)


def test_beyond_its_freshness_a_source_that_must_be_fresh_refuses(s3: S3, tmp_path: Path) -> None:
    words = "freshness={'weather': timedelta(hours=6)}, stale='refuse'"
    with declared(s3, tmp_path, words) as replica:
        refused = replica.ask("/predict", rows(ROW))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
        assert LONG_SILENT in refused.json()["error"]
        replica.endpoint.check_health()  # the replica is well: another one would know no more
        assert replica.ask("/predict", rows(changed(weather_rain_mm=2.0))).status_code == 200

        weather_of_now(replica)
        replica.endpoint._keeper.refresh()
        assert replica.ask("/predict", rows(ROW)).status_code == 200
