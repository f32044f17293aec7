# Every target sets up what it needs in .venv, once: the stamps are newer than pyproject.toml and constraints.txt.

PYTHON ?= python3
WORKERS ?= 2
PYTEST_ARGS ?=

BIN := .venv/bin
RUNTIME := .venv/.installed
DEV := .venv/.installed-dev
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
OLDEST := .venv-oldest

# OpenMP threads that wait by spinning would stall each other as soon as anything else runs on the same cores.
export OMP_WAIT_POLICY := passive

.DEFAULT_GOAL := help
.PHONY: help install demo test test-oldest unit lint format clean

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | expand -t 12

install: $(RUNTIME) ## .venv with everything that training and inference need

demo: $(RUNTIME) ## train, merge and ask a tiny model: from a fresh clone to outputs/demo/results.json
	$(BIN)/python scripts/run_demo.py

test: $(DEV) ## all tests; PYTEST_ARGS="-k packing" and WORKERS=8 are passed on
	$(PYTEST) -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

test-oldest: $(OLDEST)/.installed ## all tests with the oldest versions that pyproject.toml allows, in .venv-oldest
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

unit: $(DEV) ## the fast tests
	$(PYTEST) -n $(WORKERS) tests/unit $(PYTEST_ARGS)

lint: $(DEV) ## style, formatting and types, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

format: $(DEV) ## mend style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment, the caches and the demo; other outputs stay
	rm -rf .venv $(OLDEST) build dist outputs/demo .pytest_cache .ruff_cache .hypothesis
	find data train scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.version_info >= (3, 11) or sys.exit( \
		f"error: Python 3.11 or newer is needed and $(PYTHON) is {v}; name another: make PYTHON=python3.12")'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(DEV): $(RUNTIME)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	test -x $(OLDEST)/bin/pip || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e ".[dev]"
	@touch $@
