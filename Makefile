# Every target is a line that you can type yourself; `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
NODE_MODULES := api/web/node_modules/.installed
PAGE := api/web/dist/index.html
PAGE_SOURCES := $(shell find api/web -type f -not -path '*/node_modules/*' -not -path '*/dist/*')
NPM := PYTHON=$(abspath $(BIN)/python) api/web/npm
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header pyproject.toml

TURNS ?= 1000

# Test processes would compile all tests and the product again and again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run page test test-browser screenshots lint fmt types bench bench-quick chaos audit rules settings-docs lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

run: $(INSTALLED) $(PAGE) ## Start everything on this machine; Ctrl-C stops it
	$(BIN)/mini-chat run

page: $(PAGE) ## Build the chat page, if its source is newer

test: $(INSTALLED) $(PAGE) ## Run all tests but those in a browser
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
	$(NPM) run --silent test

test-browser: $(INSTALLED) $(PAGE) ## Run the tests of the page in Chromium, which must be installed
	$(BIN)/python -m pytest -n 0 tests/browser

screenshots: $(INSTALLED) $(PAGE) ## Take the README's pictures of the page
	$(BIN)/python -m tests.browser.screenshots

lint: $(INSTALLED) ## Check style, formatting and the layers of the imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

fmt: $(INSTALLED) ## Format the code and repair what the linter can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED) $(NODE_MODULES) ## Check types, strictly
	$(BIN)/mypy
	$(NPM) run --silent types

bench: $(INSTALLED) ## Measure latency and throughput
	$(BIN)/python -m tests.bench

bench-quick: $(INSTALLED) ## The same in under 3 minutes, each measurement once
	$(BIN)/python -m tests.bench --quick

chaos: $(INSTALLED) ## Kill everything again and again under load: make chaos TURNS=1000 SEED=7
	$(BIN)/python -m tests.chaos --turns $(TURNS) $(if $(SEED),--seed $(SEED))

audit: $(INSTALLED) ## Look the pinned packages up among known vulnerabilities
	$(BIN)/python -m tests.support.audit

settings-docs: $(INSTALLED) ## Rewrite .env.example and the README's table of settings
	$(BIN)/python -m tests.support.settings_reference

rules: $(INSTALLED) ## Rewrite the alerts of deploy/kubernetes
	$(BIN)/python -m tests.support.prometheus_rule

lock: $(INSTALLED) ## Renew the lock files from pyproject.toml and package.json
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) --upgrade --extra dev -o requirements.lock
	$(COMPILE) --constraint requirements.lock -o deploy/requirements.lock
	$(NPM) run lock

clean: ## Remove the environment and every cache
	rm -rf .venv build dist api/web/dist api/web/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: an installation that was interrupted is taken up again.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mini-chat needs Python 3.11 or newer; choose one with: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(INSTALLED)

$(NODE_MODULES): api/web/package.json api/web/package-lock.json $(INSTALLED)
	$(NPM) ci --loglevel=error
	@touch $(NODE_MODULES)

$(PAGE): $(PAGE_SOURCES) $(NODE_MODULES)
	$(NPM) run --silent build
