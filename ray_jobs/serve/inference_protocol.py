"""The Open Inference Protocol, version 2, over HTTP: columns as tensors, as JSON or as the binary extension has them.

Source: github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md, and Triton's
docs/protocol/extension_binary_data.md. A pipeline's columns are its inputs, one tensor of shape [n] or [n, 1] each;
strings, instants and days are BYTES.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from ray_jobs.serve.rows import RowSchema, Sent, check_request_id, parse_json
from ray_jobs.serve.values import BadRequest, Column, say

HEADER_LENGTH = "inference-header-content-length"
EXTENSIONS = ["binary_tensor_data"]
NUMPY = {
    "BOOL": np.dtype("?"),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
WHOLE = frozenset(name for name in NUMPY if "INT" in name)
REAL = frozenset(name for name in NUMPY if name.startswith("FP"))
MAXIMUM_TENSORS = 4_096
OUTPUT = "score"


@dataclass(frozen=True)
class Wanted:
    """The outputs that a client asks for, by name, and whether as binary data; none named: all."""

    outputs: dict[str, bool]
    binary: bool = False


def datatype(dtype: pl.DataType) -> str:
    """The protocol's name for what a column holds."""
    if dtype == pl.Boolean:
        return "BOOL"
    if dtype.is_integer():
        return str(dtype).upper()  # polars's names are the protocol's
    if dtype.is_float():
        return {"Float32": "FP32"}.get(str(dtype), "FP64")
    return "BYTES"


def describe_inputs(schema: RowSchema) -> list[dict[str, Any]]:
    """The tensors that have to be sent, for the model's metadata."""
    return [
        {"name": name, "datatype": datatype(schema.columns[name].dtype), "shape": [-1]}
        for name in schema.columns
        if name in schema.required
    ]


def read_infer(body: bytes, header_length: str | None, schema: RowSchema, maximum_rows: int) -> tuple[Sent, Wanted]:
    """The rows of an inference request, and the outputs it wants.

    Raises:
        BadRequest: the request is not of the protocol's form, a tensor is not of its column's type, or an output is
            wanted that the model does not have.
    """
    head, binary = _split(body, header_length)
    content = parse_json(head)
    if not isinstance(content, dict):
        raise BadRequest('the body must be a JSON object: {"inputs": [{"name": ..., "datatype": ..., ...}]}.', 400)
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise BadRequest("'inputs' must be a list of at least one tensor.", 400)
    if len(inputs) > MAXIMUM_TENSORS:
        raise BadRequest(f"{len(inputs):,} inputs are more than any model has.", 400)
    columns = _Columns(schema, binary, maximum_rows)
    for tensor in inputs:
        columns.add(tensor)
    wanted = _wanted(content)
    return columns.sent(check_request_id(content.get("id"))), wanted


def write_infer(
    model: str, version: int, request_id: str, outputs: dict[str, NDArray[Any]], wanted: Wanted
) -> tuple[bytes, int | None]:
    """The response's body, and the length of its JSON where binary data follow it."""
    described, binary = [], []
    for name in wanted.outputs or outputs:
        values = outputs[name]
        tensor: dict[str, Any] = {"name": name, "datatype": _output_type(values), "shape": list(values.shape)}
        if wanted.outputs.get(name, wanted.binary):
            raw = np.ascontiguousarray(values).tobytes()
            tensor["parameters"] = {"binary_data_size": len(raw)}
            binary.append(raw)
        else:
            tensor["data"] = values.ravel().tolist()
        described.append(tensor)
    answer = {"model_name": model, "model_version": str(version), "id": request_id, "outputs": described}
    head = orjson.dumps(answer)
    return (b"".join([head, *binary]), len(head)) if binary else (head, None)


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    if not header_length.isascii() or not header_length.isdigit() or not 0 < int(header_length[:12]) <= len(body):
        raise BadRequest(
            f"the header Inference-Header-Content-Length is {say(header_length)}; it must be the length of the JSON at "
            f"the body's start, and the body has {len(body)} bytes.",
            400,
        )
    return body[: int(header_length)], memoryview(body)[int(header_length) :]


class _Columns:
    """Tensors on their way to columns; binary ones are taken from the body's rest in the order of the inputs."""

    def __init__(self, schema: RowSchema, binary: memoryview, maximum_rows: int) -> None:
        self._binary, self._maximum = binary, maximum_rows
        self._known = schema.known
        self._columns: dict[str, list[Any] | pl.Series] = {}
        self._rows: int | None = None

    def add(self, tensor: Any) -> None:
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise BadRequest(
                f"an input is {say(tensor)}; it must be an object with name, datatype, shape and data.", 400
            )
        name = tensor["name"]
        if name not in self._known:
            raise BadRequest(f"input {say(name)} is unknown; the model's inputs are {sorted(self._known)}.")
        if name in self._columns:
            raise BadRequest(f"input {name!r} is there twice.", 400)
        kind, rows = self._kind(name, tensor.get("datatype")), self._height(name, tensor.get("shape"))
        parameters = _parameters(tensor, f"input {name!r}")
        size = parameters.get("binary_data_size")
        if any(key.startswith("shared_memory") for key in parameters):
            raise BadRequest(f"input {name!r} is in shared memory, which this server does not read.", 400)
        if size is None:
            self._columns[name] = _from_json(name, tensor.get("data"), kind, rows)
        else:
            if "data" in tensor:
                raise BadRequest(f"input {name!r} has both data and binary_data_size.", 400)
            self._columns[name] = _from_binary(name, self._take(name, size), kind, rows)

    def sent(self, request_id: str | None) -> Sent:
        if self._binary:
            raise BadRequest(f"{len(self._binary)} bytes follow the last binary input.", 400)
        return Sent(self._rows or 0, self._columns, request_id)

    def _kind(self, name: str, kind: object) -> str:
        column = self._known[name]
        accepted = _accepted(column)
        if not isinstance(kind, str) or kind not in accepted:
            raise BadRequest(
                f"input {name!r} has the datatype {say(kind)}; it must be {datatype(column.dtype)}"
                + (f", or one of {sorted(accepted)}." if len(accepted) > 1 else ".")
            )
        return kind

    def _height(self, name: str, shape: object) -> int:
        told = f"input {name!r} has the shape {say(shape)}"
        if (
            not isinstance(shape, list)
            or not all(isinstance(size, int) and not isinstance(size, bool) for size in shape)
            or len(shape) not in (1, 2)
            or (len(shape) == 2 and shape[1] != 1)
        ):
            raise BadRequest(f"{told}; it must be [rows] or [rows, 1].")
        if shape[0] < 1:
            raise BadRequest(f"{told}; a request has at least one row.")
        if shape[0] > self._maximum:
            detail = f"{told}: more than the {self._maximum:,} rows of one request; send several."
            raise BadRequest(detail, 413)
        if self._rows is not None and shape[0] != self._rows:
            raise BadRequest(f"{told}, and another input has {self._rows} rows.")
        self._rows = shape[0]
        return self._rows

    def _take(self, name: str, size: object) -> memoryview:
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(self._binary):
            raise BadRequest(
                f"input {name!r} has binary_data_size {say(size)}, and {len(self._binary)} bytes are left after the JSON "
                "(header Inference-Header-Content-Length) and the inputs before it. Was the body cut off?",
                400,
            )
        taken, self._binary = self._binary[:size], self._binary[size:]
        return taken


def _accepted(column: Column) -> frozenset[str]:
    dtype = column.dtype
    if dtype == pl.Boolean:
        return frozenset({"BOOL"})
    if dtype.is_integer():
        return WHOLE
    if dtype.is_float():
        return WHOLE | REAL
    return frozenset({"BYTES"})


def _from_json(name: str, data: object, kind: str, rows: int) -> list[Any]:
    if not isinstance(data, list):
        raise BadRequest(f"input {name!r} has no list 'data', and no parameter binary_data_size.", 400)
    if len(data) == rows and all(isinstance(value, list) for value in data):  # nested, as [n, 1] may be written
        flat = [value for part in data[: rows + 1] for value in part]
        data = flat if all(len(part) == 1 for part in data) else data
    if len(data) != rows:
        raise BadRequest(f"input {name!r} has {len(data)} values and {rows} rows.")
    if kind in WHOLE:
        low, high = np.iinfo(NUMPY[kind]).min, np.iinfo(NUMPY[kind]).max
        for row, value in enumerate(data):
            if isinstance(value, int) and not low <= value <= high:
                raise BadRequest(f"row {row}: column {name!r} is {say(value)}, out of the range of {kind}.")
            if isinstance(value, float):
                raise BadRequest(f"row {row}: column {name!r} is {say(value)}; it must be a whole number.")
    return data


def _from_binary(name: str, raw: memoryview, kind: str, rows: int) -> list[Any] | pl.Series:
    if kind == "BYTES":
        return _strings(name, raw, rows)
    wanted = rows * NUMPY[kind].itemsize
    if len(raw) != wanted:
        raise BadRequest(f"input {name!r} has {len(raw)} bytes; {rows} values of {kind} have {wanted}.", 400)
    if kind == "BOOL":
        bits = np.frombuffer(raw, np.uint8)
        if bits.max(initial=0) > 1:
            row = int(np.argmax(bits > 1))
            raise BadRequest(f"row {row}: column {name!r} is the byte {bits[row]}; BOOL is 0 or 1.")
        return pl.Series(name, bits.astype(bool))
    values = np.frombuffer(raw, NUMPY[kind])
    return pl.Series(
        name, values.astype(np.float32) if kind == "FP16" else values.astype(NUMPY[kind].newbyteorder("="))
    )


def _strings(name: str, raw: memoryview, rows: int) -> list[str]:
    """Each value is its length, four bytes, little-endian, and its bytes."""
    texts, place = [], 0
    for row in range(rows):
        if place + 4 > len(raw):
            raise BadRequest(f"row {row}: column {name!r} is missing, its bytes end before it.", 400)
        (length,) = struct.unpack_from("<I", raw, place)
        place += 4
        if place + length > len(raw):
            raise BadRequest(
                f"row {row}: column {name!r} says it has {length} bytes, and {len(raw) - place} follow.", 400
            )
        try:
            texts.append(str(raw[place : place + length], "utf-8"))
        except UnicodeDecodeError:
            raise BadRequest(f"row {row}: column {name!r} is no UTF-8 text.") from None
        place += length
    if place != len(raw):
        raise BadRequest(f"input {name!r} has {len(raw) - place} bytes after its {rows} values.", 400)
    return texts


def _wanted(content: dict[str, Any]) -> Wanted:
    parameters = _parameters(content, "the request")
    outputs = content.get("outputs") or []
    if not isinstance(outputs, list) or not all(
        isinstance(o, dict) and isinstance(o.get("name"), str) for o in outputs
    ):
        raise BadRequest("'outputs' must be a list of objects with a name.", 400)
    binary = parameters.get("binary_data_output") is True
    named = {}
    for output in outputs:
        if output["name"] != OUTPUT:
            raise BadRequest(f"output {say(output['name'])} is unknown; the model has {[OUTPUT]}.", 400)
        own = _parameters(output, f"output {output['name']!r}")
        if own.get("classification") or any(key.startswith("shared_memory") for key in own):
            raise BadRequest(f"output {say(output['name'])} may have the parameter binary_data only.", 400)
        named[output["name"]] = own.get("binary_data", binary) is True
    return Wanted(named, binary)


def _parameters(of: dict[str, Any], whose: str) -> dict[str, Any]:
    found = of.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadRequest(f"the parameters of {whose} are {say(found)}; they must be an object.", 400)
    return found


def _output_type(values: NDArray[Any]) -> str:
    return next((name for name, dtype in NUMPY.items() if dtype == values.dtype), "BYTES")
