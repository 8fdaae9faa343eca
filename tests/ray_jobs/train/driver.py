"""A driver of its own, so that it can be killed: `python -m tests.ray_jobs.train.driver ADDRESS REQUEST ANSWER`."""

import logging
import sys
from pathlib import Path

import ray

from ray_jobs.train.request import TrainRequest
from ray_jobs.train.train import train

if __name__ == "__main__":
    address, request, answer = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    ray.init(address=address, namespace="perennial", log_to_driver=False, logging_level=logging.WARNING)
    trained = train(TrainRequest.model_validate_json(Path(request).read_text()))
    Path(answer).write_text(trained.model_dump_json())
