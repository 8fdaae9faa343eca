"""Messages as rows: whatever is sent, each message is a row or a reason, at its own offset."""

import io
import json
from datetime import UTC, datetime
from typing import Any

import fastavro
import orjson
import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perennial.rules.contract import check_block
from perennial.spec import Kafka
from ray_jobs.ingest.messages import Messages, decode


class Click(pa.DataFrameModel):
    """Grain: one click."""

    click_id: int
    page: str


class Value(pa.DataFrameModel):
    """Grain: one message."""

    value: str


class Bytes(pa.DataFrameModel):
    """Grain: one message."""

    value_base64: str


SCHEMA = json.dumps(
    {
        "type": "record",
        "name": "click",
        "fields": [
            {"name": "click_id", "type": "long"},
            {"name": "page", "type": ["null", "string"]},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"name": "token", "type": "bytes"},
        ],
    }
)
AT = datetime(2024, 5, 1, 12, tzinfo=UTC)


def clicks(contract: type[pa.DataFrameModel] = Click, **more: Any) -> Kafka:
    return Kafka("clicks", topic="t", servers="s:1", contract=contract, key=["click_id"], **more)


def decoded(source: Kafka, values: list[bytes | None]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The values as the messages 0, 1, ... of partition 0."""
    messages = Messages.of(source)
    messages.values, messages.offsets, messages.partitions = values, list(range(len(values))), [0] * len(values)
    return decode(source, messages)


def record(**more: Any) -> bytes:
    stream = io.BytesIO()
    fields = {"click_id": 1, "page": None, "at": AT, "token": b"\xff", **more}
    fastavro.schemaless_writer(stream, fastavro.parse_schema(json.loads(SCHEMA)), fields)
    return stream.getvalue()


def reasons(unreadable: pl.DataFrame) -> dict[str, str]:
    return {place: checks[0] for place, checks in unreadable.select("_position", "_failed_checks").iter_rows()}


SOUND = st.dictionaries(
    st.text(max_size=3),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5),
        lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=2), children, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)  # fmt: skip
ANY = st.none() | st.binary(max_size=12) | st.text(max_size=8).map(str.encode) | SOUND.map(orjson.dumps)


@settings(deadline=None, max_examples=50)
@given(values=st.lists(ANY | SOUND.map(lambda value: json.dumps(value, indent=1).encode()), max_size=12))
def test_each_message_is_a_row_at_its_offset_or_a_reason_whatever_stands_beside_it(values: list[bytes | None]) -> None:
    rows, unreadable = decoded(clicks(), values)
    alone = [decoded(clicks(), [value]) for value in values]
    good = [number for number, (row, _) in enumerate(alone) if len(row)]
    assert rows["_position"].to_list() == [f"t[0]@{number}" for number in good]
    bad = [number for number in range(len(values)) if number not in good]
    assert unreadable["_position"].to_list() == [f"t[0]@{number}" for number in bad]
    for at, number in enumerate(good):
        row = rows.row(at, named=True)
        assert {name: text for name, text in row.items() if text is not None and name != "_position"} == {
            name: text
            for name, text in alone[number][0].row(0, named=True).items()
            if text is not None and name != "_position"
        }


def test_fields_arrive_as_their_text_and_null_where_they_are_null_or_missing() -> None:
    lines = [b'{"click_id":9007199254740993,"page":"a\\nb","more":{"x":[1,null]}}', b'{"page":null,"click_id":"7"}']
    rows, _ = decoded(clicks(), [*lines])
    assert rows.drop("_position").rows(named=True) == [
        {"click_id": "9007199254740993", "page": "a\nb", "more": '{"x":[1,null]}'},
        {"click_id": "7", "page": None, "more": None},
    ]


def test_what_is_no_json_object_is_kept_with_its_reason() -> None:
    values = [b"nope", b'{"page":"\\ud800"}', b"[1]", None, b'{"a":1}{"b":2}', b'{"a":"\xff"}']
    rows, unreadable = decoded(clicks(), [b'{"click_id":1}', *values, b'{"click_id":2}'])
    assert rows["_position"].to_list() == ["t[0]@0", "t[0]@7"]
    assert list(reasons(unreadable).values()) == [
        "json:syntax",
        "json:syntax",
        "json:object",
        "kafka:no_value",
        "json:syntax",
        "json:syntax",
    ]
    assert unreadable["message"].to_list() == ["nope", '{"page":"\\ud800"}', "[1]", None, '{"a":1}{"b":2}', None]
    assert unreadable["message_base64"].to_list()[-1] == "eyJhIjoi/yJ9"


def test_avro_records_keep_the_types_of_their_schema_and_broken_ones_their_bytes() -> None:
    source = clicks(format="avro", avro_schema=SCHEMA)
    rows, unreadable = decoded(source, [record(), record()[:-1], record(page="/b"), record() + b"x", b"", None])
    assert rows.select("click_id", "page", "at", "token").rows() == [(1, None, AT, "ff"), (1, "/b", AT, "ff")]
    assert rows["_position"].to_list() == ["t[0]@0", "t[0]@2"]
    assert list(reasons(unreadable).values()) == ["avro:record", "avro:record", "avro:record", "kafka:no_value"]


def test_avro_records_with_a_registrys_head_are_read_by_the_schema_they_name() -> None:
    source = clicks(format="avro", avro_schema={7: SCHEMA})
    head = b"\0\0\0\0"
    rows, unreadable = decoded(source, [head + b"\x07" + record(), head + b"\x08" + record(), record(), b"\0"])
    assert rows["click_id"].to_list() == [1]
    assert reasons(unreadable) == {
        "t[0]@1": "avro:schema_unknown",
        "t[0]@2": "avro:schema_id",
        "t[0]@3": "avro:schema_id",
    }


def test_records_of_several_schemas_stand_at_their_offsets() -> None:
    other = json.dumps({"type": "record", "name": "c", "fields": [{"name": "click_id", "type": "int"}]})
    source = clicks(format="avro", avro_schema={7: SCHEMA, 9: other})
    values = [b"\0\0\0\0\x09\x06", b"\0\0\0\0\x07" + record(page="/b"), b"\0\0\0\0\x09\x08"]
    rows, unreadable = decoded(source, [*values])
    assert rows.select("click_id", "page", "_position").rows() == [
        (3, None, "t[0]@0"),
        (1, "/b", "t[0]@1"),
        (4, None, "t[0]@2"),
    ]
    assert unreadable.is_empty()


def test_a_block_of_poison_alone_is_judged_too() -> None:
    for source in (clicks(), clicks(format="avro", avro_schema=SCHEMA), clicks(Value, format="raw")):
        rows, unreadable = decoded(source, [b"\xff", None])
        assert len(check_block(source, rows).good) == 0
        assert len(unreadable) == 2


def test_raw_messages_are_a_text_column_or_base64_where_the_contract_says_so() -> None:
    rows, unreadable = decoded(clicks(Value, format="raw"), [b"any \n text", b"\xff", b""])
    assert rows.select("value", "_position").rows() == [("any \n text", "t[0]@0"), ("", "t[0]@2")]
    assert reasons(unreadable) == {"t[0]@1": "raw:utf8"}
    rows, unreadable = decoded(clicks(Bytes, format="raw"), [b"\xff", None])
    assert rows.rows() == [("/w==", "t[0]@0")]
    assert reasons(unreadable) == {"t[0]@1": "kafka:no_value"}


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"format": "xml"}, "format 'xml' must be json, avro or raw"),
        ({"format": "avro"}, "avro_schema goes with format='avro'"),
        ({"avro_schema": SCHEMA}, "avro_schema goes with format='avro'"),
        ({"maximum_messages": 0}, "maximum_messages 0 must be at least 1"),
    ],
)
def test_a_source_that_cannot_be_right_is_refused(mistake: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        clicks(**mistake)
