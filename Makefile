# Every target is a line that you can type yourself; `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header pyproject.toml

TURNS ?= 1000

.DEFAULT_GOAL := help
.PHONY: help run test lint fmt types bench bench-quick chaos settings-docs rules lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

run: $(INSTALLED) ## Start everything on this machine; Ctrl-C stops it
	$(BIN)/mini-chat run

test: $(INSTALLED) ## Run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(INSTALLED) ## Check style, formatting and the layers of the imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

fmt: $(INSTALLED) ## Format the code and repair what the linter can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED) ## Check types, strictly
	$(BIN)/mypy

bench: $(INSTALLED) ## Measure latency and throughput
	$(BIN)/python -m tests.bench

bench-quick: $(INSTALLED) ## The same in under 3 minutes, each measurement once
	$(BIN)/python -m tests.bench --quick

chaos: $(INSTALLED) ## Kill everything again and again under load: make chaos TURNS=1000 SEED=7
	$(BIN)/python -m tests.chaos --turns $(TURNS) $(if $(SEED),--seed $(SEED))

settings-docs: $(INSTALLED) ## Rewrite .env.example and the README's table of settings
	$(BIN)/python -m tests.support.settings_reference

rules: $(INSTALLED) ## Rewrite the alerts of deploy/kubernetes
	$(BIN)/python -m tests.support.prometheus_rule

lock: $(INSTALLED) ## Renew both lock files from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) --upgrade --extra dev -o requirements.lock
	$(COMPILE) --constraint requirements.lock -o deploy/requirements.lock

clean: ## Remove the environment and every cache
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: an installation that was interrupted is taken up again.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mini-chat needs Python 3.11 or newer; choose one with: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(INSTALLED)
