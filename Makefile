# Everything runs from .venv, which is made on first use and reused afterwards.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: help install demo test soak check format docs bench clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Create .venv with everything, also .venv/bin/headstart

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; assert (3, 11) <= v < (3, 14), f"Python 3.11 to 3.13 is needed, this is {v.major}.{v.minor}; name one with make PYTHON=..."'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dask,lite]' --group dev
	@touch $(INSTALLED)

demo: $(INSTALLED) ## Onboard real pictures from an installed package and predict a few
	$(BIN)/headstart demo --workspace .demo

# two files at a time: each process takes up to 4 GB; one of them has all tests of the Prefect server
test: $(INSTALLED) ## Run the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadgroup

soak: $(INSTALLED) ## Kill, flip bits and write at once, for an hour: see tests/soak
	$(BIN)/python -m tests.soak

check: $(INSTALLED) ## Format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

docs: $(INSTALLED)-docs ## Build the pages of docs/ into site/
	$(BIN)/python -m typer flows.cli.app utils docs --name headstart --output docs/reference/commands.md
	$(BIN)/zensical build --strict

$(INSTALLED)-docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --group docs
	@touch $(INSTALLED)-docs

bench: $(INSTALLED)-bench ## Measure, as ratios side by side in one run
	$(BIN)/python -m tests.benchmarks

$(INSTALLED)-bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --group bench
	@touch $(INSTALLED)-bench

clean: ## Remove .venv and the demo's workspace
	rm -rf .venv .demo
