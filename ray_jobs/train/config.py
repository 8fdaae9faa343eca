"""How many workers train, and on what."""

from typing import Literal

from pydantic import BaseModel, Field, model_validator


class TrainConfig(BaseModel, frozen=True):
    """Where a training runs. Weights are bitwise the same for the same workers and threads on CPUs.

    Args:
        workers: that share a step's rows and average their gradients.
        maximum_workers: Ray takes as many as the cluster has room for, up to these, and adds and gives back workers at
            checkpoints; None: exactly `workers`.
        device: `auto` takes GPUs where the cluster has one for each of `workers`.
        threads: of torch in a worker. Two are a quarter faster on two idle cores than one, and six times slower where they
            share them: one waits for the other at every step.
        worker_cpus: slots a worker takes; a reader takes half of one, so that both fit beside Serve's.
        compile: whether a GPU worker compiles the network first.
        max_failures: how often a lost worker or node is replaced.
        checkpoint_seconds: between two checkpoints at least, and an epoch; a report to Ray takes half a second.
    """

    workers: int = Field(1, ge=1)
    maximum_workers: int | None = Field(None, ge=1)
    device: Literal["auto", "cpu", "gpu"] = "auto"
    threads: int = Field(1, ge=1)
    worker_cpus: float = Field(1.0, gt=0)
    compile: bool = False
    max_failures: int = Field(3, ge=0)
    checkpoint_seconds: float = Field(2.0, ge=0)

    @model_validator(mode="after")
    def _bounds_rise(self) -> "TrainConfig":
        if self.maximum_workers is not None and self.maximum_workers < self.workers:
            raise ValueError(f"{self.maximum_workers} workers at most are fewer than the {self.workers} asked for.")
        return self

    @property
    def worker_count(self) -> int | tuple[int, int]:
        """As Ray Train takes it."""
        return self.workers if self.maximum_workers is None else (self.workers, self.maximum_workers)

    def on_gpu(self, gpus: float) -> bool:
        """Whether this training takes GPUs, on a cluster that has so many."""
        return self.device == "gpu" or (self.device == "auto" and gpus >= self.workers)
