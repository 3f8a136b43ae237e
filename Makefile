# Everything starts with `make setup`, which needs Python 3.11 or 3.12 and nothing else.
# Name an interpreter with `make PYTHON=/path/to/python3.12 setup`.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := command query sagas projections contracts infra
SOURCES = $(PACKAGES) tests $(if $(wildcard benchmarks/*.py),benchmarks)
PYTEST_ARGS ?=
CHAOS ?= --for 20 --kafka
# Each worker runs its own engines; a file stays with one worker, because its tests share what is slow to make.
WORKERS ?= 2
# A worker that hung for good is ended by tests/conftest.py, and the run with it: with another one in its place
# pytest-xdist may wait for ever (3.8, --dist loadfile).
# Files in the order of their names, which puts the long ones (data, e2e, faults) first and the unit tests last: by itself
# pytest-xdist begins with the files of many tests, and one worker then waits for ten minutes beside the last long one.
PARALLEL = -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# Version managers leave shims that exist but do not run: an interpreter counts only once it has answered.
# Those of a distribution come first: they are built with profiles of real programs, while version managers compile
# without, and that is a quarter of the speed.
PYTHON_CANDIDATES := /usr/bin/python3.12 /usr/bin/python3.11 python3.12 python3.11 python3 python
PYTHON_PROBE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON_VERSION := import sys; print("%d.%d" % sys.version_info[:2])

define FIND_PYTHON
found=""; \
for candidate in $(or $(PYTHON),$(PYTHON_CANDIDATES) "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.1[12].*/bin/python); do \
    if "$$candidate" -c '$(PYTHON_PROBE)' >/dev/null 2>&1; then found="$$candidate"; break; fi; \
done; \
if [ -z "$$found" ]; then \
    echo "make: no usable Python 3.11 or 3.12 (with venv and ensurepip)." >&2; \
    echo "      Looked for: $(or $(PYTHON),$(PYTHON_CANDIDATES) and pyenv's own versions)." >&2; \
    echo "      Install one (Debian, Ubuntu: apt-get install python3.12 python3.12-venv; macOS: brew install python@3.12)" >&2; \
    echo "      or name one: make PYTHON=/path/to/python3.12 setup" >&2; \
    exit 1; \
fi
endef

# An interpreter named by the caller wins over the one an existing environment was made with.
ifdef PYTHON
ifneq ($(shell $(PYTHON) -c '$(PYTHON_VERSION)' 2>/dev/null),$(shell $(BIN)/python -c '$(PYTHON_VERSION)' 2>/dev/null))
.PHONY: $(STAMP)
endif
endif

.PHONY: help setup demo up test lint fmt types unit integration test-long mutants simulate histories chaos bench lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | while IFS=$$'\t' read -r name what; do printf '  %-12s %s\n' "$$name" "$$what"; done

setup: $(STAMP) ## Make .venv from the lock file (does nothing when it is up to date)

$(STAMP): requirements.lock pyproject.toml
	@$(FIND_PYTHON); \
	wanted=$$("$$found" -c '$(PYTHON_VERSION)'); \
	if [ "$$($(BIN)/python -c '$(PYTHON_VERSION)' 2>/dev/null || true)" != "$$wanted" ] || ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
	    echo "==> Making $(VENV) with $$found (Python $$wanted)"; \
	    "$$found" -m venv --clear $(VENV); \
	fi
	@echo "==> Installing the locked dependencies (hashes required)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-compile --no-deps --require-hashes -r requirements.lock
	@echo "==> Installing tessera in place"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## A seeded business day on embedded engines, reconciled at the end (KAFKA=1: over Kafka)
	@$(BIN)/tessera demo $(if $(filter-out 0,$(KAFKA)),--kafka)

up: setup ## Run the whole stack on embedded engines until Ctrl-C
	@$(BIN)/tessera up

# Lint, types and tests all run even when an earlier one fails, and the tests come last:
# one run tells everything, and the last line is pytest's summary.
test: setup ## Lint, types, architecture and the whole suite
	@status=0; \
	$(MAKE) --no-print-directory lint || status=1; \
	$(MAKE) --no-print-directory types || status=1; \
	if [ $$status -ne 0 ]; then echo "==> Lint or types FAILED (see above); running the tests all the same"; fi; \
	echo "==> Kafka's broker (fetched and rehearsed once)"; \
	$(BIN)/python -m infra.embedded || status=1; \
	echo "==> Tests"; \
	$(BIN)/pytest $(PARALLEL) $(PYTEST_ARGS) || status=1; \
	exit $$status

lint: setup ## ruff: rules and formatting
	@echo "==> Lint"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

fmt: setup ## Format, and mend what ruff can mend safely
	@echo "==> Format"
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

types: setup ## mypy --strict over the packages and the tests
	@echo "==> Types"
	@$(BIN)/mypy --strict $(SOURCES)

unit: setup ## Tests that need no engine
	@echo "==> Unit tests"
	@$(BIN)/pytest -m 'not (integration or e2e or faults or slow or data)' $(PYTEST_ARGS)

integration: setup ## Tests on embedded engines
	@echo "==> Integration tests"
	@$(BIN)/pytest -m 'integration or e2e or faults' $(PARALLEL) $(PYTEST_ARGS)

test-long: setup ## The suite with many more generated examples (minutes)
	@echo "==> Long tests"
	@TESSERA_TEST_EFFORT=long $(BIN)/pytest --timeout=1800 $(PARALLEL) $(PYTEST_ARGS)

mutants: setup ## Plant each kept defect in a copy of the tree; its test must fail (minutes)
	@echo "==> Mutants"
	@$(BIN)/python -m tests.mutants.run

# A failing seed is seen again with the same SEEDS and COMMANDS; TRACE=file writes down everything that happened in it.
# TOTALS=file adds the run's figures to those of other runs, also when it is interrupted.
SEEDS ?= 1..40
COMMANDS ?= 5000
simulate: setup ## Seeded days with crashes, lost answers and reordering; all invariants checked (SEEDS=1..200 COMMANDS=5000)
	@echo "==> Simulation"
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --commands $(COMMANDS) --processes $(WORKERS) $(if $(TRACE),--trace $(TRACE)) $(if $(TOTALS),--totals $(TOTALS))

# SEED begins elsewhere, or plays again what failed.
STEPS ?= 1000000
SEED ?= 1
histories: setup ## Random histories on a real PostgreSQL against a reference model (STEPS=1000000; half an hour and more)
	@echo "==> Histories"
	@$(BIN)/python -m tests.property.long_histories --steps $(STEPS) --seed $(SEED) --processes $(WORKERS)

chaos: setup ## Kill, freeze and cut off every process under load, again and again (CHAOS="--cycles 1000 --kinds kill --for 60"; minutes)
	@echo "==> Chaos"
	@$(BIN)/python -m tests.chaos $(CHAOS)

bench: setup ## Benchmarks (ratios measured side by side; never part of the tests)
	@echo "==> Benchmarks"
	@$(BIN)/python -m benchmarks

# The image's lock is cut from the whole one: the same versions and hashes, without embedded engines and test tools.
LOCK := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-annotate --no-header --quiet

lock: setup ## Resolve the dependencies again and rewrite the lock files (no addresses inside)
	@echo "==> Lock"
	@$(LOCK) --extra embedded --group dev --upgrade --output-file requirements.lock
	@$(LOCK) --group build --constraints requirements.lock --output-file requirements-image.lock
	@$(BIN)/python -m infra.embedded.kafka_jars lock

clean: ## Remove the environment and the caches (data of `tessera up` stays)
	@echo "==> Clean"
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	@find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +
