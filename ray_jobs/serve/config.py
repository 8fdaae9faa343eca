"""How the endpoint runs: read once from the settings, carried to the replicas as values; the token as a name."""

import hashlib
from pathlib import Path

from pydantic import BaseModel, Field

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.secrets import SecretRef


class ServeConfig(BaseModel, frozen=True):
    """The same for every pipeline of an environment; what differs is in the pipeline's `Serving`."""

    host: str = Field("127.0.0.1", description="Where the endpoint listens; loopback unless told otherwise.")
    port: int = Field(8000, ge=1, le=65535, description="The endpoint's port.")
    token: SecretRef = Field(SecretRef(name="serve_token"), description="Name of the secret that clients must send.")
    log_folder: Path = Field(description="Node-local folder for answered rows until they are on S3.")
    ship_seconds: float = Field(2.0, gt=0, le=3600, description="What a lost node may cost: rows go to S3 this often.")
    maximum_log_bytes: int = Field(1 << 30, gt=0, description="Answered rows a node may hold while S3 is away.")
    maximum_body_bytes: int = Field(32 << 20, gt=0, description="Larger request bodies are refused with 413.")
    maximum_ongoing_requests: int = Field(500, gt=0, description="Requests on their way in one replica; more: 503.")
    replica_cpus: float = Field(0.1, gt=0, description="CPU slot of a replica: small, so that retraining finds room.")
    rollout_seconds: float = Field(120.0, gt=0, description="How long a roll-out may take before it is rolled back.")
    draining_seconds: float = Field(5.0, ge=0, description="How long a replaced replica finishes what it has begun.")

    @property
    def url(self) -> str:
        """Where clients on this machine reach the endpoint."""
        return f"http://{self.host}:{self.port}"


class EndpointConfig(BaseModel, frozen=True):
    """What one replica is told, and how many there are.

    Args:
        pipelines: folder of the pipelines' files, the same on every node.
        code_hash: of the pipeline as it was when the application was deployed.
        maximum_replicas: under load up to so many are started, beyond `replicas`.
    """

    lake: Lake
    pipeline: str
    pipelines: Path
    code_hash: str
    serve: ServeConfig
    replicas: int = Field(1, ge=1)
    maximum_replicas: int = 1
    target_ongoing_requests: float = 20.0

    @property
    def route(self) -> str:
        """Where the pipeline's endpoint stands."""
        return route(self.pipeline)

    @property
    def fingerprint(self) -> str:
        """Replicas that were deployed with another one are replaced by a roll-out: code or settings have changed."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def route(pipeline: str) -> str:
    """The path of a pipeline's endpoint, after the Open Inference Protocol."""
    return f"/v2/models/{pipeline}"
