"""Against a real S3 server and real processes that are really killed."""

import os
import signal
from pathlib import Path

import pyarrow as pa
import pytest

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.prediction_log import commit_predictions
from ray_jobs.serve.answer_log import AnswerLog, LogFull, read_segment
from tests.ray_jobs.serve.replica import full_disk

SCHEMA = pa.schema([("request_id", pa.string()), ("score", pa.float64())])


def rows(count: int) -> pa.Table:
    return pa.table({"request_id": ["r"] * count, "score": [0.5] * count}, SCHEMA)


def log(lake: Lake, folder: Path, maximum_bytes: int = 1 << 20) -> AnswerLog:
    return AnswerLog(lake, "trips", folder / "trips", maximum_bytes)


def killed_after(lake: Lake, folder: Path, answered: int, torn: bool = False) -> None:
    """A process that wrote down `answered` rows and was killed, `torn`: in the middle of writing one more."""
    child = os.fork()
    if child == 0:
        mine = log(lake, folder)
        mine.append(rows(answered))
        if torn and mine._current:
            os.write(mine._current.descriptor, rows(1).to_batches()[0].serialize().slice(0, 100))
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_answered_rows_are_shipped_and_nothing_stays(lake: Lake, tmp_path: Path) -> None:
    mine = log(lake, tmp_path)
    mine.append(rows(2))
    mine.append(rows(3))
    assert mine.ship() == 5
    assert mine.ship() == 0
    assert list((tmp_path / "trips").iterdir()) == []
    assert commit_predictions(lake, "trips") == 5


def test_a_process_killed_between_answer_and_shipping_loses_nothing(lake: Lake, tmp_path: Path) -> None:
    killed_after(lake, tmp_path, answered=7)
    assert log(lake, tmp_path).ship() == 7
    assert commit_predictions(lake, "trips") == 7


def test_a_row_that_was_cut_off_by_the_kill_takes_no_answered_one_with_it(lake: Lake, tmp_path: Path) -> None:
    killed_after(lake, tmp_path, answered=7, torn=True)
    assert log(lake, tmp_path).ship() == 7


def test_the_segments_of_a_living_process_are_its_own(lake: Lake, tmp_path: Path) -> None:
    living, other = log(lake, tmp_path), log(lake, tmp_path)
    living.append(rows(2))
    assert other.ship() == 0
    assert living.ship() == 2


def test_rows_stay_while_s3_is_away_and_go_when_it_is_back(lake: Lake, tmp_path: Path) -> None:
    mine = log(lake.model_copy(update={"bucket": "nowhere"}), tmp_path)
    mine.append(rows(4))
    assert mine.ship() == 0
    assert mine.problem
    mine.lake = lake
    mine.append(rows(1))
    assert mine.ship() == 5
    assert mine.problem is None


def test_a_full_log_refuses_to_answer_rather_than_to_lose(lake: Lake, tmp_path: Path) -> None:
    mine = log(lake.model_copy(update={"bucket": "nowhere"}), tmp_path, maximum_bytes=2_000)
    mine.append(rows(10))
    with pytest.raises(LogFull, match="nothing was answered"):
        mine.append(rows(1_000))
    mine.append(rows(1))  # what fits is answered still


def test_a_full_disk_refuses_to_answer_and_what_was_written_stays_whole(lake: Lake, tmp_path: Path) -> None:
    mine = log(lake, tmp_path)
    with full_disk(), pytest.raises(LogFull, match=r"cannot be written to .*; nothing was answered. Make room"):
        mine.append(rows(1))
    assert list((tmp_path / "trips").iterdir()) == []
    mine.append(rows(4))
    assert mine._current
    other = rows(100).append_column("more", pa.array([1.0] * 100))
    for table, room in ((rows(100), mine._current.size + 50), (rows(100), mine._current.size), (other, 0)):
        with full_disk(room), pytest.raises(LogFull):
            mine.append(table)
    mine.append(rows(1))
    assert mine.ship() == 5
    assert list((tmp_path / "trips").iterdir()) == []


def test_a_file_without_a_whole_batch_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.arrows"
    path.write_bytes(b"")
    assert len(read_segment(path)) == 0
