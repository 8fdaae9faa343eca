"""The model behind LitServe. A module of its own: LitServe spawns its workers, and they import the class by name."""

from pathlib import Path
from typing import Any

import litserve

from benchmarks.serving_servers import bare_scorer, frame_of


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Rows in, scores out, batched by LitServe."""

    folder: Path

    def setup(self, device: str) -> None:
        """Load the weights that every contender has."""
        self.scorer = bare_scorer(self.folder)

    def decode_request(self, request: dict[str, Any]) -> Any:
        """The rows of a body."""
        return request["rows"]

    def batch(self, inputs: list[Any]) -> Any:
        """Rows of several requests; each has one."""
        return [row for rows in inputs for row in rows]

    def predict(self, rows: Any) -> Any:
        """Their scores."""
        return self.scorer.score(frame_of(rows))

    def unbatch(self, output: Any) -> Any:
        """A score for each request."""
        return [[score] for score in output.tolist()]

    def encode_response(self, output: Any) -> dict[str, Any]:
        """The answer's body."""
        return {"scores": output}


def run(port: int, folder: Path) -> None:
    """Serve until stopped."""
    api = Api(max_batch_size=64, batch_timeout=0.001)
    api.folder = folder
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(port=port, host="127.0.0.1", generate_client_file=False, log_level="warning")
