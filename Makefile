# `make` alone lists the targets. Needs make and Python 3.11, nothing else.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup lock up down status deploy land run demo test pytest bench-validation bench-ingest bench-commits bench-features bench-features-build bench-features-memory bench-features-online bench-history bench-sketch bench-streams bench-event chaos-watch chaos-ingest chaos-serving bench-score bench-rollouts lint clean bench-models bench-learning bench-training token tokens token-revoke bench-serving soak-serving fuzz-serving bench-gpu chaos-train

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
STACK := $(BIN)/python -m deployments.stack
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

# torch's CPU build is not the file that the index hashes, so it is not in the lock: docs/decisions/0002-lock.md.
# For another build: make setup TORCH_PIP_ARGS="--index-url <torch's own index for that build>"
TORCH := torch==2.13.0
TORCH_PIP_ARGS ?=
# The last month of 2013 that the demo replays, 12 for the whole year; empty: as far as fits its time.
MONTHS ?=

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make the virtual environment from the lock (again only when the lock changes)

$(STAMP): requirements/dev.lock
	@test -n "$(PYTHON)" || { echo "Perennial needs Python 3.11 and found none (python3.11, python3). Install it, or say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@if [ -e $(VENV)/.installing ]; then echo "An earlier set-up was interrupted; starting afresh."; rm -rf $(VENV); fi
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3.11-venv" >&2; exit 1; }
	@touch $(VENV)/.installing
	@echo "Installing the locked dependencies into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_PIP_ARGS) $(TORCH)
	@$(BIN)/python -c "import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'perennial.pth').write_text('$(CURDIR)\n')"
	@rm $(VENV)/.installing
	@touch $(STAMP)

lock: setup ## Resolve the dependencies again and write the locks
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate --python-version 3.11 \
		pyproject.toml requirements/torch-needs.in -o requirements/runtime.lock
	$(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate --python-version 3.11 \
		--extra demo --extra dev -c requirements/runtime.lock \
		pyproject.toml requirements/torch-needs.in -o requirements/dev.lock

up: setup ## Start the local stack; what runs already is left alone
	@$(STACK) up
	@$(STACK) run -- $(abspath $(BIN))/python -m deployments.endpoints

down: setup ## Stop exactly what `make up` started; the data stays
	@$(STACK) down

status: setup ## Say how each part of the stack is
	@$(STACK) status

deploy: setup ## Upsert every deployment, schedule and automation on the running stack
	@$(STACK) run -- prefect --no-prompt deploy --all

land: setup ## Put a file where a source looks: FILE=sales.csv TO=houses/sales.csv
	@$(STACK) run -- $(abspath $(BIN))/python -m deployments.land "$(FILE)" "$(TO)"

token: setup ## A new token for a client of the endpoint, shown once: CLIENT=shop [RATE=requests a second]
	@$(BIN)/python -m deployments.tokens add "$(CLIENT)" $(if $(RATE),--rate $(RATE))

tokens: setup ## List the endpoint's clients and their tokens' ids
	@$(BIN)/python -m deployments.tokens list

token-revoke: setup ## Take a client's tokens away, or one: CLIENT=shop [TOKEN=id]
	@$(BIN)/python -m deployments.tokens revoke "$(CLIENT)" $(if $(TOKEN),--token $(TOKEN))

run: setup ## Run a flow through its deployment: FLOW=ingest PIPELINE=flights [VERSION=1 SOURCE=... BATCH=... CHECK=... AS_OF=... START=... END=... AT=2026-11-25T03:00:00Z KEY='{"order": 3}']
	@$(STACK) run -- prefect deployment run "$(subst _,-,$(FLOW))/$(FLOW)" --param pipeline=$(PIPELINE) \
		$(if $(AT),--param 'at="$(AT)"') $(if $(AS_OF),--param 'as_of="$(AS_OF)"') \
		$(if $(START),--param 'start="$(START)"') $(if $(END),--param 'end="$(END)"') \
		$(if $(VERSION),--param version=$(VERSION)) $(if $(SOURCE),--param 'source="$(SOURCE)"') \
		$(if $(BATCH),--param 'batch="$(BATCH)"') $(if $(CHECK),--param 'check="$(CHECK)"') \
		$(if $(KEY),--param 'key=$(KEY)') --watch

demo: setup ## The whole loop on real data (MONTHS=12 for the whole year); the stack stays up
	@$(BIN)/python -m deployments.demo $(if $(MONTHS),--months $(MONTHS))

test: setup ## Everything: packages the tests need, lint, types, tests
	@.ci/packages
	@$(MAKE) --no-print-directory -j2 lint pytest
	@.ci/packages --remind

pytest: setup peers-clients # beside lint in `make test`: the tests wait more than they compute
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# Peers that benchmarks stand beside, each group in an environment of its own: they move what the stack has pinned.
peers-%: requirements/peers-%.txt # make peers-data: requirements/peers-data.txt into .venv-peers-data
	@cmp -s $< .venv-peers-$*/installed.txt || { \
		echo "Installing the peers of $< into .venv-peers-$*" && rm -rf .venv-peers-$* && $(PYTHON) -m venv .venv-peers-$* && \
		.venv-peers-$*/bin/python -m pip install --quiet --disable-pip-version-check -r $< && cp $< .venv-peers-$*/installed.txt; }

bench-validation: setup peers-data ## Twelve rules: a contract, one select by hand, Great Expectations
	@$(BIN)/python -m benchmarks.validation

bench-features: setup peers-data ## History features and as-of joins beside a Polars script and PySpark (ROWS=10000000 ROUNDS=1)
	@$(BIN)/python -m benchmarks.features $(ROWS) $(if $(ROUNDS),--rounds $(ROUNDS))

bench-features-build: setup ## A build of one percent new rows beside the full one, on Ray, Iceberg and S3 (ROWS=1000000)
	@$(BIN)/python -m benchmarks.features_build $(if $(ROWS),--rows $(ROWS))

bench-features-memory: setup ## Memory of a build's processes as its history grows (ROWS="10000000 50000000")
	@$(BIN)/python -m benchmarks.features_memory $(if $(ROWS),--rows $(ROWS))

bench-history: setup ## What history features are worth on flights, by month (MONTHS="4 9 12" SEEDS="0 1")
	@$(BIN)/python -m benchmarks.history_gain $(if $(MONTHS),--months $(MONTHS)) $(if $(SEEDS),--seeds $(SEEDS))

bench-features-online: setup ## What ten features add to a request, from a replica's memory (KEYS=100000)
	@$(BIN)/python -m benchmarks.features_online $(KEYS)

bench-commits: setup ## A small commit after ten and after 500 of them (CATALOG=postgresql); an append to 100 day partitions
	@$(BIN)/python -m benchmarks.commits --plain $(if $(CATALOG),--catalog $(CATALOG))
	@$(BIN)/python -m benchmarks.partitions

bench-ingest: setup peers-data ## A day's CSV to a checked table, beside six others: ROWS=200000 WHO="ours polars" ROUNDS=5
	@$(BIN)/python -m benchmarks.ingest $(if $(ROWS),--rows $(ROWS)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(FILES),--files $(FILES)) $(if $(WHO),--who $(WHO))

bench-sketch: setup ## Drift scores of full data by sketches and by Evidently's preset, side by side
	@$(BIN)/python -m benchmarks.sketch

bench-streams: setup ## The retraining policy on seeded synthetic streams, 20 seeds each (SEEDS=20)
	@$(BIN)/python -m benchmarks.streams $(if $(SEEDS),--seeds $(SEEDS))

bench-event: setup ## From a verdict's event to the first line of its retrain, 20 times on the running stack
	@$(STACK) run -- $(abspath $(BIN))/python -m benchmarks.event

chaos-watch: setup ## Duplicated, reordered and lost events, killed workers and servers: one retrain a decision, at length
	@PERENNIAL_CHAOS=long $(BIN)/python -m pytest tests/chaos/test_watch.py
bench-serving: setup peers-serving ## What a request to the endpoint costs, beside its peers; then its latency by load
	@$(BIN)/python -m benchmarks.serving cost
	@$(BIN)/python -m benchmarks.serving shape

soak-serving: setup ## Ten minutes at half load: memory flat, every answered row in predictions once (SECONDS=600)
	@$(BIN)/python -m benchmarks.serving soak --seconds $(or $(SECONDS),600)

fuzz-serving: setup peers-clients ## Ten thousand made-up requests of each kind: no 5xx, memory flat
	@PERENNIAL_FUZZ=long $(BIN)/python -m pytest tests/ray_jobs/serve/test_fuzz.py

bench-models: setup peers-models ## The default model beside LightGBM and scikit-learn (MONTHS="4 9 12" SEEDS="0 1 2 3 4" FOLDER=where scores are kept)
	@$(BIN)/python -m benchmarks.models $(if $(MONTHS),--months $(MONTHS)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FOLDER),--folder $(FOLDER))

bench-learning: setup peers-learning ## Seconds to a fixed ROC AUC, beside Spark MLlib and Dask-ML (WHO="ours spark")
	@$(BIN)/python -m benchmarks.learning $(if $(WHO),--who $(WHO))

bench-training: setup ## What Ray Train costs over the same loop without it, and what the loader feeds (ARGS="--parts steps")
	@$(BIN)/python -m benchmarks.training $(ARGS)

bench-gpu: setup ## Rows a second through a 3x512 network on a GPU, from Iceberg files in the page cache
	@$(BIN)/python -m benchmarks.gpu

chaos-train: setup ## Kill ten training workers, five nodes, five drivers; CHAOS="-k driver" for a part
	@PERENNIAL_CHAOS=long $(BIN)/python -m pytest -s tests/ray_jobs/train/test_faults.py $(CHAOS)

chaos-ingest: setup ## Break ingest in every way we know, at length (docs/reliability.md); CHAOS="-k kill" for a part
	@PERENNIAL_CHAOS=long $(BIN)/python -m pytest -s tests/chaos $(CHAOS)

bench-rollouts: setup ## How often an equal version is rolled back by chance, and how soon a worse one
	@$(BIN)/python -m benchmarks.rollouts

bench-score: setup ## Batch scoring beside the bare forward pass (ARGS="--rows 400000 --rounds 3")
	@$(BIN)/python -m benchmarks.score $(ARGS)

chaos-serving: setup ## 50 roll-outs and 22 kills while clients ask (docs/reliability.md)
	@PERENNIAL_CHAOS=long $(BIN)/python -m pytest -s -p no:xdist tests/ray_jobs/serve/test_chaos.py $(CHAOS)

lint: setup ## Style, types and the directions of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

clean: ## Remove the stack's data and the caches; refuses while the stack is up
	@! test -x $(BIN)/python || $(STACK) idle
	rm -rf .perennial .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
