# Everything here makes its own virtual environment first; only Python 3.11 or newer and make are needed.

PYTHON ?= python3
EVENTS ?= 10000000
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEV_INSTALLED := $(VENV)/.installed-dev
SHORT_WITH_WORKERS := $(addprefix tests/http/test_,$(addsuffix .py,\
	access admin conventions edges events evidence keys messages sessions smoke))

.DEFAULT_GOAL := help
.PHONY: help run check format test test-workers test-fast crash bench bench-large clean

help: ## Show what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --editable .
	@touch $@

$(DEV_INSTALLED): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --editable '.[dev]'
	@touch $@ $(INSTALLED)

run: $(INSTALLED) ## Serve on 127.0.0.1:8000, with the ledger in data/ledger.db
	$(BIN)/chatledger serve

check: $(DEV_INSTALLED) ## Formatting, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV_INSTALLED) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(DEV_INSTALLED) ## The whole test suite
	$(BIN)/pytest
	TEST_WORKERS=2 $(BIN)/pytest -q $(SHORT_WITH_WORKERS)

test-workers: $(DEV_INSTALLED) ## The tests of the HTTP API and the kills, with servers of two workers
	TEST_WORKERS=2 $(BIN)/pytest tests/http tests/crash/test_kills.py

test-fast: $(DEV_INSTALLED) ## The tests that one runs all the time
	$(BIN)/pytest -m 'not slow' -q

crash: $(DEV_INSTALLED) ## The long form of the fault tests, an hour, into docs/reliability.md
	cd tests && ../$(BIN)/python -m crash.long_form

bench: $(DEV_INSTALLED) ## The benchmarks, into docs/benchmarks.md
	cd tests && ../$(BIN)/python -m benchmarks.peers.install
	cd tests && ../$(BIN)/python -m benchmarks

bench-large: $(DEV_INSTALLED) ## A ledger of EVENTS events (10,000,000: an hour and more, 40 GB), into docs/benchmarks.md
	cd tests && ../$(BIN)/python -m benchmarks --only large,stalls --large-events $(EVENTS)

clean: ## Remove the virtual environment and caches, never data
	rm -rf $(VENV) tests/benchmarks/peers/.cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
