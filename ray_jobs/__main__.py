"""The entry point of a job on a remote Ray cluster: `python -m ray_jobs <module>:<function> <request uri> <result uri>`."""

import importlib
import inspect
import logging
import os
import sys

import ray

from perennial.lakehouse.lake import Lake


def main(job: str, asked: str, answered: str) -> None:
    """Read the request from the lake, run the job, write its result to the lake."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    module, function = job.split(":")
    if not module.startswith("ray_jobs."):
        raise SystemExit(f"{job} is not a job of ray_jobs.")
    work = getattr(importlib.import_module(module), function)
    parameter = next(iter(inspect.signature(work, eval_str=True).parameters.values()))  # the others have defaults
    files = Lake.model_validate_json(os.environ["PERENNIAL_JOB_LAKE"]).files()
    request = parameter.annotation.model_validate_json(files.cat_file(asked))
    ray.init(namespace="perennial", log_to_driver=True)
    files.pipe_file(answered, work(request).model_dump_json().encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
