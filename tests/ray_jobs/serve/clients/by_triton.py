"""Runs in the clients' environment: asks an endpoint through Triton's own HTTP client, and prints what it got."""

import json
import sys

import numpy as np
import tritonclient.http as triton

url, token = sys.argv[1:]
client = triton.InferenceServerClient(url.removeprefix("http://"))


def authorised() -> dict[str, str]:
    """Made anew for each call: the client writes the length of the request's JSON into what it is given."""
    return {"Authorization": f"Bearer {token}"}


def tensor(name: str, kind: str, values: np.ndarray, binary: bool) -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), kind)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def inputs(binary: bool) -> list[triton.InferInput]:
    columns = {
        "trip": ("INT64", np.array([1, 2])),
        "station": ("BYTES", np.array(["north", "south"], dtype=object)),
        "start_at": ("BYTES", np.array(["2024-05-01T18:00:00Z"] * 2, dtype=object)),
        "distance_km": ("FP64", np.array([2.5, 9.0])),
        "member": ("BOOL", np.array([True, False])),
    }
    return [tensor(name, kind, values, binary) for name, (kind, values) in columns.items()]


def refused(**wrong: object) -> str:
    try:
        client.infer("trips", [tensor("trip", "FP64", np.array([1.5]), True)], headers=authorised(), **wrong)
    except triton.InferenceServerException as error:
        return f"{error.status()} {error.message()}"
    return "answered"


metadata = client.get_model_metadata("trips", headers=authorised())
version = metadata["versions"][0]
wanted = [triton.InferRequestedOutput("score", binary_data=False)]
answers = {
    "binary": client.infer("trips", inputs(True), headers=authorised(), request_id="by-triton"),
    "json": client.infer("trips", inputs(False), headers=authorised(), outputs=wanted),
    "of_version": client.infer("trips", inputs(True), model_version=version, headers=authorised()),
}
found = {
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "model_ready": client.is_model_ready("trips"),
    "version_ready": client.is_model_ready("trips", version),
    "other_version_ready": client.is_model_ready("trips", "99"),
    "other_model_ready": client.is_model_ready("nobody"),
    "server": client.get_server_metadata(),
    "index": client.get_model_repository_index(headers=authorised()),
    "inputs": metadata["inputs"],
    "scores": {name: answer.as_numpy("score").tolist() for name, answer in answers.items()},
    "id": answers["binary"].get_response()["id"],
    "version": answers["binary"].get_response()["model_version"],
    "refused": refused(),
}
print(json.dumps(found))
