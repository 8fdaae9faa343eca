"""One replica without Ray around it, asked as its proxy asks: everything a client can send, and what comes back."""

import asyncio
import io
import json
import struct
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from perennial.lakehouse.prediction_log import commit_predictions
from perennial.lakehouse.tables import read_snapshot
from ray_jobs.serve.application import Gate
from ray_jobs.serve.clients import add_token, read_book, revoke
from tests.conftest import S3
from tests.ray_jobs.serve.replica import KINDS, ROW, Replica, changed, full_disk, rows, running_replica, tensors

ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture(scope="module")
def replica(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with running_replica(s3, tmp_path_factory.mktemp("replica")) as replica:
        yield replica


def binary(values: dict[str, tuple[str, Any]], **more: Any) -> tuple[bytes, str]:
    """An inference request with binary tensors, and the length of its JSON."""
    inputs, raws = [], []
    for name, (kind, column) in values.items():
        if kind == "BYTES":
            raw = b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in column)
        else:
            raw = column.tobytes()
        parameters = {"binary_data_size": len(raw)}
        inputs.append({"name": name, "datatype": kind, "shape": [len(column), 1], "parameters": parameters})
        raws.append(raw)
    head = json.dumps({"inputs": inputs, **more}).encode()
    return b"".join([head, *raws]), str(len(head))


def two_binary_rows() -> dict[str, tuple[str, Any]]:
    return {
        "trip": ("INT32", np.array([1, 2], np.int32)),
        "station": ("BYTES", ["north", "south"]),
        "start_at": ("BYTES", ["2024-05-01T18:00:00Z"] * 2),
        "distance_km": ("FP32", np.array([2.5, 9], np.float32)),
        "member": ("BOOL", np.array([True, False])),
    }


def arrow(count: int, change: Callable[[pl.DataFrame], pl.DataFrame] = lambda rows: rows, **options: Any) -> bytes:
    frame = pl.DataFrame([ROW] * max(count, 1)).head(count)
    frame = frame.with_columns(
        pl.col("start_at").str.to_datetime(time_zone="UTC"), trip=pl.int_range(pl.len(), dtype=pl.Int64)
    )
    table = change(frame).to_arrow()
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def test_json_tensors_binary_tensors_and_arrow_give_the_scores_of_plain_rows(replica: Replica) -> None:
    two = (ROW, changed(trip=2, station="south", distance_km=9.0, member=False))
    plain = replica.ask("/predict", rows(*two)).json()
    by_tensor = replica.ask("/infer", tensors(*two, id="mine")).json()
    assert by_tensor["model_name"] == "trips"
    assert by_tensor["model_version"] == str(replica.version)
    assert by_tensor["id"] == "mine"
    assert by_tensor["outputs"] == [{"name": "score", "datatype": "FP64", "shape": [2], "data": plain["scores"]}]

    body, length = binary(two_binary_rows(), parameters={"binary_data_output": True})
    answer = replica.ask(
        "/infer", body, inference_header_content_length=length, content_type="application/octet-stream"
    )
    head = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:head])["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert np.frombuffer(answer.content[head:], "<f8").tolist() == plain["scores"]

    sent = arrow(
        2, lambda f: pl.concat([f[0], f[1].with_columns(station=pl.lit("south"), distance_km=9.0, member=False)])
    )
    assert replica.ask("/predict", sent, content_type=ARROW).json()["scores"] == plain["scores"]
    back = replica.ask("/predict", sent, content_type=ARROW, accept=ARROW, x_request_id="a")
    table = pa.ipc.open_stream(back.content).read_all()
    assert table.column("score").to_pylist() == plain["scores"]
    assert table.schema.metadata == {b"request_id": b"a", b"version": str(replica.version).encode()}


def test_requests_at_the_same_time_get_their_own_answers_and_a_bad_one_is_refused_alone(replica: Replica) -> None:
    asked = [changed(trip=n, distance_km=0.5 + n % 7, station="north" if n % 2 else "south") for n in range(40)]
    asked[7] = changed(distance_km=-1.0)
    alone = [replica.ask("/predict", rows(row)) for row in asked[:8]]
    together = replica.ask_all([("/predict", rows(row)) for row in asked])
    assert [answer.status_code for answer in together] == [422 if n == 7 else 200 for n in range(40)]
    assert together[7].json() == alone[7].json()
    assert [a.json()["scores"] for a in together[:7]] == [a.json()["scores"] for a in alone[:7]]
    assert len({str(a.json()["scores"]) for n, a in enumerate(together) if n != 7}) > 5


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            changed(distance_km=-3.0),
            "row 1: column 'distance_km' is -3.0; it breaks the contract's check greater_than(0)",
        ),
        (changed(distance_km=0), "row 1: column 'distance_km' is 0.0; it breaks the contract's check greater_than(0)"),
        (changed(distance_km=float("nan")), "row 1: column 'distance_km' is nan"),
        (changed(note=7), "row 0: column 'note' is missing, and other rows have it"),
        (changed(color="red"), "row 0: column 'color' is unknown"),
        (changed(trip="1"), "row 1: column 'trip' is '1'"),
    ],
)
def test_a_row_that_breaks_the_contract_is_refused_by_row_and_column(
    replica: Replica, row: dict[str, Any], says: str
) -> None:
    answer = replica.ask("/predict", rows(ROW, row))
    assert (answer.status_code, says in answer.json()["error"]) == (422, True), answer.text


def _tensor(name: str = "trip", **values: Any) -> bytes:
    inputs = json.loads(tensors(ROW))["inputs"]
    return json.dumps({"inputs": [{**t, **values} if t["name"] == name else t for t in inputs]}).encode()


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "not JSON"),
        (b"[]", 400, "JSON object"),
        (b'{"inputs": []}', 400, "at least one tensor"),
        (b'{"inputs": [1]}', 400, "an input is 1"),
        (_tensor(name="trip", datatype="BYTES"), 422, "input 'trip' has the datatype 'BYTES'; it must be INT64"),
        (_tensor(name="trip", datatype=[]), 422, "input 'trip' has the datatype []"),
        (_tensor(name="trip", shape=[2]), 422, "input 'trip' has 1 values and 2 rows"),
        (_tensor(name="member", shape=[2], data=[True, False]), 422, "and another input has 1 rows"),
        (_tensor(name="trip", shape=[-1]), 422, "at least one row"),
        (_tensor(name="trip", shape=[1, 3]), 422, "it must be [rows] or [rows, 1]"),
        (_tensor(name="trip", shape=[10**9]), 413, "more than the 2,000 rows"),
        (_tensor(name="trip", data=["x"]), 422, "row 0: column 'trip' is 'x'"),
        (_tensor(name="trip", data=None), 400, "has no list 'data'"),
        (_tensor(name="trip", datatype="INT8", data=[300]), 422, "out of the range of INT8"),
        (_tensor(name="trip", name_="", parameters={"binary_data_size": 4}), 400, "both data and binary_data_size"),
        (
            _tensor(name="trip", parameters="none"),
            400,
            "the parameters of input 'trip' are 'none'; they must be an object",
        ),
        (_tensor(name="trip", parameters=[]), 400, "the parameters of input 'trip' are []"),
        (tensors(ROW, parameters=0), 400, "the parameters of the request are 0"),
        (
            tensors(ROW, outputs=[{"name": "score", "parameters": False}]),
            400,
            "the parameters of output 'score' are False",
        ),
        (tensors(ROW, outputs=[{"name": "class"}]), 400, "output 'class' is unknown"),
        (tensors(ROW, outputs=[{"name": "score", "parameters": {"classification": 3}}]), 400, "binary_data only"),
        (json.dumps({"inputs": json.loads(tensors(ROW))["inputs"][1:]}).encode(), 422, "'trip' is missing"),
    ],
)
def test_a_bad_inference_request_is_refused_by_input(replica: Replica, body: bytes, status: int, says: str) -> None:
    answer = replica.ask("/infer", body)
    assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text


@pytest.mark.parametrize(
    ("name", "kind", "values", "says"),
    [
        ("distance_km", "FP32", np.array([1, np.nan], np.float32), "row 1: column 'distance_km' is nan"),
        ("distance_km", "FP64", np.array([1, -2.0]), "row 1: column 'distance_km' is -2.0; it breaks"),
        ("trip", "UINT64", np.array([1, 2**63], np.uint64), "row 1: column 'trip' is 9223372036854775808"),
        ("member", "BOOL", np.array([0, 7], np.uint8), "row 1: column 'member' is the byte 7"),
        ("start_at", "BYTES", ["2024-05-01T18:00:00Z", "soon"], "row 1: column 'start_at' is 'soon'"),
    ],
)
def test_a_binary_value_that_breaks_the_contract_is_refused_by_row_and_column(
    replica: Replica, name: str, kind: str, values: Any, says: str
) -> None:
    body, length = binary({**two_binary_rows(), name: (kind, values)})
    answer = replica.ask("/infer", body, inference_header_content_length=length)
    assert (answer.status_code, says in answer.json()["error"]) == (422, True), answer.text


@pytest.mark.parametrize("cut", [1, 5, 40, 200])
def test_a_truncated_binary_body_is_refused(replica: Replica, cut: int) -> None:
    body, length = binary(two_binary_rows())
    assert replica.ask("/infer", body[:-cut], inference_header_content_length=length).status_code == 400
    assert replica.ask("/infer", body + b"x", inference_header_content_length=length).status_code == 400
    assert replica.ask("/infer", body, inference_header_content_length="-1").status_code == 400
    assert replica.ask("/infer", body).status_code == 400


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (arrow(3)[:-200], 400, "cut off"),
        (b"ARROW1\x00\x00" + arrow(3)[:40], 400, "cut off"),
        (b"not arrow at all", 400, "no Arrow IPC stream"),
        (arrow(3, compression="zstd"), 415, "compressed"),
        (arrow(2_001), 413, "2,000 rows"),
        (arrow(0), 422, "no row"),
        (arrow(3, lambda f: f.drop("station")), 422, "'station' is missing"),
        (
            arrow(3, lambda f: f.with_columns(pl.col("distance_km") - pl.col("trip") * 2)),
            422,
            "row 2: column 'distance_km'",
        ),
        (arrow(3, lambda f: f.with_columns(distance_km=pl.lit("far"))), 422, "column 'distance_km'"),
        (arrow(3, lambda f: f.with_columns(trip=pl.col("trip") + 0.5)), 422, "column 'trip' has the type Float64"),
        (arrow(3, lambda f: f.with_columns(pl.col("start_at").dt.replace_time_zone(None))), 422, "without a time zone"),
        (arrow(3, lambda f: f.with_columns(trip=pl.lit(None, pl.Int64))), 422, "row 0: column 'trip' is null"),
        (arrow(3, lambda f: f.with_columns(note=pl.concat_list("trip"))), 422, "'note' has the Arrow type"),
    ],
)
def test_a_bad_arrow_body_is_refused(replica: Replica, body: bytes, status: int, says: str) -> None:
    answer = replica.ask("/predict", body, content_type=ARROW)
    assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text


def _table(note: pa.Array) -> bytes:
    """Rows of which a column is an Arrow array that no data frame would write."""
    table = pl.DataFrame(pl.from_arrow(pa.ipc.open_stream(arrow(len(note))).read_all())).to_arrow()
    sink, table = io.BytesIO(), table.append_column("note", note)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _one_text(kind: str, length: int, count: int) -> pa.Array:
    """One text, as every row's value."""
    if kind == "string_view":
        view = struct.pack("<i4sii", length, b"xxxx", 0, 0)
        return pa.Array.from_buffers(
            pa.string_view(), count, [None, pa.py_buffer(view * count), pa.py_buffer(b"x" * length)]
        )
    values = pa.array(["x" * length], getattr(pa, kind)())
    return pa.DictionaryArray.from_arrays(pa.array([0] * (count - 1) + [None], pa.int16()), values)


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view"])
def test_one_long_text_that_every_row_names_is_refused_before_each_row_has_its_own(replica: Replica, kind: str) -> None:
    body = _table(_one_text(kind, 50_000, 2_000))
    assert len(body) < 300_000  # of which 100 MB would be made
    answer = replica.ask("/predict", body, content_type=ARROW)
    assert (answer.status_code, "bytes, of 1,048,576 allowed" in answer.json()["error"]) == (413, True), answer.text
    short = replica.ask("/predict", _table(_one_text(kind, 40, 2_000)), content_type=ARROW)
    assert short.status_code == 200, short.text


def test_an_arrow_body_of_made_up_bytes_is_refused_and_never_a_crash(replica: Replica) -> None:
    good, dice = arrow(50), np.random.default_rng(3)
    broken = []
    for _ in range(300):
        body = bytearray(good)
        for place in dice.integers(0, len(body), dice.integers(1, 20)):
            body[place] = dice.integers(0, 256)
        broken.append(("/predict", bytes(body)))
    statuses = {answer.status_code for answer in replica.ask_all(broken[:90], content_type=ARROW)}
    assert statuses <= {200, 400, 413, 415, 422}


def test_versions_that_are_served_answer_and_others_are_not_found(replica: Replica) -> None:
    assert replica.ask(f"/versions/{replica.version}/infer", tensors(ROW)).status_code == 200
    assert replica.ask(f"/versions/{replica.version}").json()["versions"] == [str(replica.version)]
    assert replica.ask(f"/versions/{replica.version}/ready").status_code == 200
    for path, content in (("/versions/99/infer", tensors(ROW)), ("/versions/99", None), ("/versions/99/ready", None)):
        answer = replica.ask(path, content)
        assert (answer.status_code, "version 99 is not served" in answer.json()["error"]) == (404, True)


@pytest.mark.parametrize("path", ["/versions/x", "/versions/1.5/ready", "/versions/" + "9" * 5_000])
def test_a_version_that_is_no_number_is_not_found_and_said_as_any_refusal(replica: Replica, path: str) -> None:
    answer = replica.ask(path)
    assert (answer.status_code, list(answer.json())) == (404, ["error"])
    assert "is no version" in answer.json()["error"]


def test_a_clients_token_works_at_once_and_once_revoked_no_more(replica: Replica) -> None:
    folder = replica.lake.secrets_dir
    assert folder
    token = add_token(folder, "shop", datetime.now(UTC))
    book = (folder / "serve_clients").read_text()
    assert token not in book
    assert (folder / "serve_clients").stat().st_mode & 0o777 == 0o600
    assert replica.ask("/predict", rows(ROW), token).status_code in (200, 401)
    replica.endpoint._clients._next_look = 0  # a second later
    assert replica.ask("/predict", rows(ROW), token).status_code == 200
    second = add_token(folder, "shop", datetime.now(UTC))
    revoke(folder, "shop", read_book(folder).clients["shop"].tokens[0].token_id)
    replica.endpoint._clients._next_look = 0
    assert [replica.ask("/predict", rows(ROW), t).status_code for t in (token, second)] == [401, 200]
    revoke(folder, "shop")
    replica.endpoint._clients._next_look = 0
    assert replica.ask("/predict", rows(ROW), second).status_code == 401


def test_a_client_that_asks_too_often_is_told_when_to_come_back(replica: Replica) -> None:
    folder = replica.lake.secrets_dir
    assert folder
    token = add_token(folder, "hasty", datetime.now(UTC), requests_per_second=2)
    replica.endpoint._clients._next_look = 0
    answers = replica.ask_all([("/predict", rows(ROW))] * 5, token)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429]
    assert {answer.headers.get("retry-after") for answer in answers if answer.status_code == 429} == {"1"}
    revoke(folder, "hasty")


def test_more_than_can_wait_is_refused_with_a_time_to_come_back(replica: Replica) -> None:
    answers = replica.ask_all([("/predict", rows(ROW))] * 200)
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in refused} == {503}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert len(refused) == 100


def test_a_body_that_is_cut_off_or_too_large_is_refused_before_it_is_held(replica: Replica) -> None:
    async def send(chunks: list[bytes], announced: int | None, end: bool) -> int:
        messages = [{"type": "http.request", "body": c, "more_body": True} for c in chunks]
        messages.append(
            {"type": "http.request", "body": b"", "more_body": False} if end else {"type": "http.disconnect"}
        )
        taken, sent = iter(messages), []

        async def receive() -> dict[str, Any]:
            return next(taken)

        async def out(message: Any) -> None:
            sent.append(message)

        headers = [(b"authorization", b"Bearer sesame")]
        headers += [(b"content-length", str(announced).encode())] if announced is not None else []
        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": headers}
        replica.endpoint._batcher._loop = None
        await replica.app(scope, receive, out)
        return int(sent[0]["status"])

    assert isinstance(replica.app, Gate)
    assert asyncio.run(send([b"x" * 700_000] * 50, None, True)) == 413
    assert asyncio.run(send([b"x"], 1 << 40, True)) == 413
    assert asyncio.run(send([rows(ROW)[:20]], None, False)) == 400
    assert asyncio.run(send([rows(ROW)[:20]], None, True)) == 400


def test_the_page_describes_each_question_with_an_example_that_works(replica: Replica) -> None:
    page = replica.ask("/openapi.json").json()
    for path in ("/predict", "/infer"):
        content = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert replica.ask(path, json.dumps(content["example"]).encode()).status_code == 200
    described = replica.ask("").json()
    assert [tensor["name"] for tensor in described["inputs"]] == list(KINDS)
    assert {tensor["name"]: tensor["datatype"] for tensor in described["inputs"]} == KINDS
    assert "default-src 'none'" in replica.ask("/docs").headers["content-security-policy"]


def test_the_request_log_has_id_version_and_status_and_no_value_that_was_sent(replica: Replica) -> None:
    replica.ask("/predict", rows(changed(note="a secret of mine"), request_id="logged"))
    replica.ask("/predict", rows(changed(note="a secret of mine", trip="no"), request_id="refused"))
    replica.endpoint._requests.flush()
    (path,) = replica.requests.glob("trips-*.jsonl")
    text = path.read_text()
    lines = {line["request_id"]: line for line in map(json.loads, text.splitlines())}
    told = {k: lines["logged"][k] for k in ("client", "version", "role", "status", "rows", "pipeline")}
    assert told == {
        "client": "operator", "version": replica.version, "role": "champion", "status": 200, "rows": 1, "pipeline": "trips"
    }  # fmt: skip
    assert lines["refused"]["status"] == 422
    assert "a secret" not in text
    assert "sesame" not in text


def test_on_a_full_disk_nothing_is_answered_and_the_replica_lives_and_says_so(
    replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    replica.endpoint._log.ship()  # so that a new segment has to be opened
    with full_disk():
        answer = replica.ask("/predict", rows(ROW, request_id="full-1"))
        time.sleep(2.5)  # its threads have had a turn
        told = replica.ask("").json()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert answer.json()["error"].startswith("answers cannot be written down here now")
    assert "/" not in answer.json()["error"]
    assert any("Make room on this disk" in record.message for record in caplog.records)
    assert "lines are lost" in told["request_log_problem"]
    replica.endpoint.check_health()
    assert replica.ask("/predict", rows(ROW, request_id="full-2")).status_code == 200


def test_every_answered_row_is_in_predictions_exactly_once(replica: Replica) -> None:
    answers = replica.ask_all([("/predict", rows(ROW, changed(trip=2), request_id=f"once-{n}")) for n in range(30)])
    assert {answer.status_code for answer in answers} == {200}
    replica.endpoint._log.ship()
    commit_predictions(replica.lake, "trips")
    logged = pl.from_arrow(read_snapshot(replica.lake, replica.lake.table("trips", "predictions")))
    assert isinstance(logged, pl.DataFrame)
    ours = logged.filter(pl.col("request_id").str.starts_with("once-")).sort("request_id", "row_index")
    assert ours["row_index"].to_list() == [0, 1] * 30
    scores = {answer.json()["request_id"]: answer.json()["scores"] for answer in answers}
    by_id = ours.group_by("request_id", maintain_order=True).agg("score")
    assert dict(by_id.iter_rows()) == scores
