"""The log of requests on a disk that fills up, and after many replicas."""

import json
import os
from pathlib import Path

from ray_jobs.serve.request_log import FILES, RequestLog
from tests.ray_jobs.serve.replica import full_disk


def test_lines_that_a_full_disk_does_not_take_are_lost_and_the_file_stays_one_of_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "trips-a.jsonl"
    log = RequestLog(path, "trips")
    log.add([{"request_id": "first"}])
    log.flush()
    for room in (0, 10):  # nothing of the lines, and half of one
        log.add([{"request_id": "lost"}])
        with full_disk(path.stat().st_size + room):
            log.flush()
        assert log.problem
        assert log.problem.startswith("lines are lost: ")
    log.add([{"request_id": "last"}])
    log.flush()
    assert log.problem is None
    assert [json.loads(line)["request_id"] for line in path.read_text().splitlines()] == ["first", "last"]


def test_of_many_replicas_the_newest_files_stay(tmp_path: Path) -> None:
    (tmp_path / "houses-a.jsonl").write_text("another pipeline's")
    for number in range(2 * FILES):
        path = tmp_path / f"trips-{number}.jsonl"
        log = RequestLog(path, "trips")
        log.add([{"request_id": "one"}])
        log.flush()
        os.utime(path, (number, number))
    kept = {path.name for path in tmp_path.iterdir()} - {"houses-a.jsonl"}
    assert kept == {f"trips-{number}.jsonl" for number in range(FILES, 2 * FILES)}
    assert (tmp_path / "houses-a.jsonl").exists()
