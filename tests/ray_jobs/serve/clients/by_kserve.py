"""Runs in the clients' environment: asks an endpoint through KServe's own HTTP client, and prints what it got."""

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

url, token = sys.argv[1:]
headers = {"Authorization": f"Bearer {token}"}
COLUMNS = {
    "trip": ("INT64", np.array([1, 2])),
    "station": ("BYTES", np.array([b"north", b"south"], dtype=object)),
    "start_at": ("BYTES", np.array([b"2024-05-01T18:00:00Z"] * 2, dtype=object)),
    "distance_km": ("FP64", np.array([2.5, 9.0])),
    "member": ("BOOL", np.array([True, False])),
}


def request(binary: bool) -> InferRequest:
    inputs = []
    for name, (kind, values) in COLUMNS.items():
        tensor = InferInput(name=name, shape=list(values.shape), datatype=kind)
        tensor.set_data_from_numpy(values, binary_data=binary)
        inputs.append(tensor)
    return InferRequest(
        model_name="trips", infer_inputs=inputs, request_id="by-kserve-binary" if binary else "by-kserve"
    )


async def main() -> None:
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        answers = {
            name: await client.infer(url, request(name == "binary"), model_name="trips", headers=dict(headers))
            for name in ("json", "binary")
        }
        try:
            await client.infer(url, request(binary=False), model_name="trips", headers={})
        except httpx.HTTPStatusError as error:
            refused = str(error)
        found = {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model_ready": await client.is_model_ready(url, "trips"),
            "scores": {name: answer.outputs[0].data for name, answer in answers.items()},
            "id": answers["json"].id,
            "refused": refused,
        }
    print(json.dumps(found))


asyncio.run(main())
