# The index of everything that can be done here. `make` alone prints it; text after `##` is what it prints.
#
# A fresh machine needs Python 3.11, git, make, a C compiler and a package index. Everything else goes into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# It names the lock that is installed. `make install LOCK=requirements-bounded.lock` chooses the other one; it stays chosen.
STAMP := $(VENV)/.installed
INSTALLED := $(shell cat $(STAMP) 2>/dev/null)
LOCK := $(or $(INSTALLED),requirements.lock)

# Settings of the project, not of anybody's shell: no tool sends telemetry, and OpenMP threads sleep instead of spinning
# while they wait (on a machine with few cores, spinning threads take the time of the loader's workers).
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export KEDRO_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
export OMP_WAIT_POLICY := PASSIVE

# Where the user interfaces listen, e.g. `make mlflow-ui PORT=5001`: on loopback, for this machine alone. From another one
# an SSH tunnel reaches them: `ssh -L 5000:127.0.0.1:5000 HOST`.
LOOPBACK := 127.0.0.1
ifneq ($(origin PORT),command line)
override PORT :=
endif
unexport PORT
# Says where to look, or who has the port. `$(call address,name,port)`
address = @$(BIN)/python .ci/address.py '$(1)' $(LOOPBACK) $(or $(PORT),$(2))

# Options of the pipeline targets, e.g. `make pretrain ENV=photos PARAMS=train.seed=1`. Taken from the command line only:
# shells have an ENV variable of their own.
ifneq ($(origin ENV),command line)
override ENV :=
endif
unexport ENV
KEDRO_RUN = $(BIN)/kedro run $(if $(ENV),--env $(ENV)) $(if $(PARAMS),--params $(PARAMS)) --pipelines

# A mistyped target, or the name of a pipeline.
.DEFAULT:
	@echo "make has no target '$@'; \`make\` alone lists all. A pipeline of that name runs by: $(BIN)/kedro run --pipelines $@" >&2; exit 2

##@ Start here
.PHONY: help
help: ## print this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z][a-z-]*:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# Needs no environment: any Python from 3.8 runs it.
.PHONY: doctor
doctor: ## check this machine and say what to do: Python, compiler, disk, memory, GPU, package index, ports
	@for python in $$(type -P python3.11 python3 python); do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null || continue; \
	  exec "$$python" -B .ci/doctor; \
	done; \
	echo "error  python           none from 3.8 on PATH: install Python 3.11 with venv (Debian and Ubuntu: python3.11 python3.11-venv)"; \
	exit 1

.PHONY: install
install: $(STAMP) ## create .venv and install the locked dependencies (other targets do this by themselves)
	@echo 'ready: $(VENV)'

.PHONY: pretrain
pretrain: $(STAMP) ## prepare the data, train CLIPS, evaluate and register it [ENV=smoke|photos|...] [PARAMS=key=value]
	$(KEDRO_RUN) pretrain

.PHONY: test
test: $(STAMP) ## run the tests, on all cores
	$(BIN)/pytest -n auto --maxprocesses 8 --dist loadfile

##@ Pipelines (`.venv/bin/kedro registry list` names all; `.venv/bin/kedro run --pipelines NAME` runs one)
.PHONY: search
search: $(STAMP) ## search fragments and loss weights with Optuna [ENV=...] [PARAMS=...]
	$(KEDRO_RUN) search

.PHONY: repro
repro: $(STAMP) ## the same work as pretrain, by DVC: only stages whose inputs changed
	$(BIN)/dvc repro

##@ Look
# The variable silences an announcement of the theme's successor; pyproject.toml says how long the theme is maintained.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs
RESULTS = $(or $(if $(ENV),$(shell sed -n 's/^results_root: *//p' $(wildcard conf/$(ENV)/globals.yml) /dev/null)),data)
STUDY = $(RESULTS)/07_model_output/search/study.db

.PHONY: viz
viz: $(STAMP) ## the graph in a browser, with previews of results and the state of the last run (Kedro-Viz) [ENV=...] [PORT=4141]
	$(call address,the graph,4141)
	$(BIN)/kedro viz run $(if $(ENV),--env $(ENV)) --no-browser --host $(LOOPBACK) --port $(or $(PORT),4141)

.PHONY: mlflow-ui
mlflow-ui: $(STAMP) ## runs, curves and registered models in a browser (MLflow) [PORT=5000]
	$(call address,MLflow,5000)
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db --workers 1 --host $(LOOPBACK) --port $(or $(PORT),5000)

.PHONY: dashboard
dashboard: $(STAMP) ## the Optuna study in a browser, after `make search` [ENV=...] [PORT=8080]
	@test -f $(STUDY) || { echo "no study at $(STUDY) yet: run \`make search$(if $(ENV), ENV=$(ENV))\` first" >&2; exit 1; }
	$(call address,the Optuna dashboard,8080)
	$(BIN)/optuna-dashboard sqlite:///$(STUDY) --host $(LOOPBACK) --port $(or $(PORT),8080)

.PHONY: docs
docs: $(STAMP) ## build the documentation as a site, in build/site; a dead link is an error
	$(MKDOCS) build --strict
	@echo 'open build/site/index.html'

.PHONY: docs-serve
docs-serve: $(STAMP) ## the documentation in a browser, built again after each change [PORT=8020]
	$(call address,the documentation,8020)
	$(MKDOCS) serve --dev-addr $(LOOPBACK):$(or $(PORT),8020)

.PHONY: screenshots
screenshots: $(STAMP) ## the pictures of docs/images, in a real browser, from the results that are there [ENV=...]
	$(BIN)/python -m docs.tools.screenshots $(if $(ENV),--env $(ENV))

##@ Checks
.PHONY: check
check: lint types layers stages test drill test-bounded test-core-latest ## everything that CI runs

.PHONY: lint
lint: $(STAMP) ## format and style (ruff), spelling (codespell), prose (proselint), Dockerfile (hadolint), changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell -D - -D words.txt
	$(BIN)/hadolint Dockerfile
	$(BIN)/proselint check README.md CONTRIBUTING.md docs

.PHONY: format
format: $(STAMP) ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: types
types: $(STAMP) ## types (mypy, strict on src/)
	$(BIN)/mypy

.PHONY: layers
layers: $(STAMP) ## who may import whom (import-linter, docs/explanation/architecture.md)
	$(BIN)/lint-imports

.PHONY: stages
stages: $(STAMP) ## check that dvc.yaml is up to date (`kedro dvc sync` updates it)
	$(BIN)/kedro dvc check

.PHONY: hooks
hooks: $(STAMP) ## run lint, types and layers before every commit (pre-commit)
	$(BIN)/pre-commit install

.PHONY: test-bounded
test-bounded: ## the tests with torch 2.7 and CUDA 12.6, within Composer's bounds, in an environment of its own (6 GB)
	$(MAKE) --no-print-directory test VENV=.venv-bounded LOCK=requirements-bounded.lock

# Without Composer. torch comes with its GPU libraries: 6 GB. The newest Python that runs; pyenv has some on PATH that do not.
NEWEST_PYTHON = $(or $(PYTHON),$(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import ensurepip' 2>/dev/null && echo $$python && break; done))
CORE = .venv-core/$(notdir $(NEWEST_PYTHON))
.PHONY: test-core-latest
test-core-latest: ## models, losses, text and data on the newest torch, in an environment of its own [PYTHON=python3.13]
	$(NEWEST_PYTHON) -m venv $(CORE)
	$(CORE)/bin/pip install --quiet --upgrade pip
	$(CORE)/bin/pip install --quiet --upgrade --group core
	$(CORE)/bin/pip install --quiet --no-deps --ignore-requires-python --editable .
	$(CORE)/bin/python -c 'import sys, torch; print("Python", sys.version.split()[0], "torch", torch.__version__)'
	$(CORE)/bin/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(addprefix tests/unit/,models losses text data)
	$(CORE)/bin/python -m benchmarks.gpu --smoke --out $(CORE)/gpu

##@ Drills
# Two at a time: most of them wait, for processes, servers or a kill. pytest ends with 5 where no test is marked slow; any
# other status counts.
.PHONY: drill
drill: $(STAMP) ## end-to-end drills of a minute and more (tests marked slow)
	$(BIN)/pytest -m slow -n 2 --dist loadfile || { status=$$?; [ $$status -eq 5 ] || exit $$status; }

.PHONY: drill-data
drill-data: $(STAMP) ## 2,000 mutated shards, every kind of hostile data, and a fuzz [CLIPS_DRILL_CASES=300]
	$(BIN)/pytest -m slow tests/drills/test_mutated_shards.py tests/drills/test_hostile_data.py

.PHONY: drill-resume
drill-resume: $(STAMP) ## 20 SIGKILLs, at one and at two ranks, then the same weights [CLIPS_DRILL_KILLS=20]
	$(BIN)/pytest -s -m slow tests/drills/test_kill_resume.py

.PHONY: drill-serve
drill-serve: $(STAMP) ## the server under load for 10 minutes: memory, kills, mutated requests [CLIPS_DRILL_SERVE_SECONDS=600]
	CLIPS_DRILL_SERVE_SECONDS=$${CLIPS_DRILL_SERVE_SECONDS:-600} $(BIN)/pytest -s -m slow tests/drills/test_serving.py

##@ Measure
.PHONY: startup
startup: $(STAMP) ## seconds from `kedro run` to the first training step
	$(BIN)/python -m benchmarks.startup

.PHONY: bench-inference
bench-inference: $(STAMP) ## images and texts per second, beside open_clip and onnxruntime (3 minutes; docs/explanation/performance-inference.md)
	$(BIN)/python -m benchmarks.inference

.PHONY: bench-serve
bench-serve: $(STAMP) ## latency and throughput of the server, beside MLflow's (3 minutes; docs/explanation/performance-inference.md) [MODEL=folder]
	$(BIN)/python -m benchmarks.serving $${MODEL:-data/06_models/clips}

.PHONY: bench-loader
bench-loader: $(STAMP) ## samples per second of the training loader, beside open_clip's (5 minutes; docs/explanation/performance-data.md)
	$(BIN)/python -m benchmarks.loader --peer open_clip --json

.PHONY: bench-step
bench-step: $(STAMP) ## a whole training step of S/16 and B/16, beside open_clip's parts (20 minutes; docs/explanation/performance.md)
	$(BIN)/python -m benchmarks.step --peer open_clip --json

.PHONY: bench-prepare
bench-prepare: $(STAMP) ## samples per second of preparing shards, with 1 and with 2 processes (docs/explanation/performance-data.md)
	$(BIN)/python -m benchmarks.prepare --json

##@ Upkeep
.PHONY: docs-parameters
docs-parameters: $(STAMP) ## write docs/reference/parameters.md from the configuration dataclasses
	$(BIN)/python -m clips_pipeline.pipelines.parameters_reference

.PHONY: notebooks
notebooks: $(STAMP) ## execute the notebooks and keep their outputs, which the site shows (10 minutes)
	$(BIN)/python .ci/notebooks.py

.PHONY: golden-curve
golden-curve: $(STAMP) ## write the golden loss curve, after an intended change
	CLIPS_WRITE_GOLDEN=1 $(BIN)/pytest -m slow tests/integration/test_golden_curve.py

.PHONY: golden-formats
golden-formats: $(STAMP) ## record the outputs of each format version, after one was raised
	CLIPS_WRITE_GOLDEN=1 $(BIN)/pytest tests/contracts/test_golden_formats.py

# Without its configuration uv does not read the overrides.
COMPILE := $(BIN)/uv pip compile pyproject.toml --all-extras --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header --no-annotate --quiet
.PHONY: lock
lock: $(STAMP) ## bring both lock files up to date with pyproject.toml, keeping versions where they still fit
	$(COMPILE) -o requirements.lock
	$(COMPILE) --no-config -o requirements-bounded.lock

.PHONY: audit
audit: $(STAMP) ## known vulnerabilities of both locks (pip-audit in .cache/audit); says what it could not check
	$(BIN)/python .ci/audit.py

.PHONY: clean
clean: ## remove caches and build products; data, models and runs stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .viz build dist
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

.PHONY: distclean
distclean: clean ## clean, and remove .venv and the environments of other tests too
	rm -rf $(VENV) .venv-bounded .venv-core

# The stamp is written last, so an installation that was cut short is done again, and one that is complete costs nothing.
# uv is several times faster than pip but does not read pip's configuration: where only pip knows the package index,
# pip installs the same locked set (the lock is complete, so pip need not resolve anything). Both check every hash.
# Compiled now, because containers often forbid Python to do so later, and then every start compiles 5,000 modules.
FORCE:
$(STAMP): pyproject.toml $(LOCK) $(if $(filter $(LOCK),$(INSTALLED)),,FORCE)
	@if ! $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
	  for candidate in $$(type -aP python3.11 python3 python); do \
	    case "$$candidate" in "$(CURDIR)/$(VENV)/"*) continue;; esac; \
	    "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || continue; \
	    echo "creating $(VENV) with $$candidate"; \
	    "$$candidate" -m venv --clear $(VENV) && break || exit 1; \
	  done; \
	fi; \
	if [ ! -x $(BIN)/python ]; then \
	  echo "error: Python 3.11 with its venv module is needed, and neither python3.11, python3 nor python is one." >&2; \
	  echo "       Install it (on Debian and Ubuntu: python3.11 and python3.11-venv), then run make again." >&2; exit 1; \
	fi
	@sed -n '/^uv==/,/[^\\]$$/p' $(LOCK) > $(VENV)/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(VENV)/uv.txt
	@if $(BIN)/uv pip sync --python $(BIN)/python --compile-bytecode --require-hashes $(LOCK); then :; else \
	  echo "uv could not install the lock (it does not read pip's configuration); pip does it now, which takes longer"; \
	  $(BIN)/python -m pip install --disable-pip-version-check --no-deps --require-hashes -r $(LOCK); \
	fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@echo $(LOCK) > $@
