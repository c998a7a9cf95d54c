# Python 3.11 or newer and make are all it takes; the rest is set up in .venv and .tools. `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help run setup test lint bench lock references clean

BIN := .venv/bin
LOCKED := uv.lock pyproject.toml $(wildcard plugins/*/pyproject.toml) tools/setup tools/uv.txt
PYTEST_WORKERS ?= 2
export PYTHON MAKECMDGOALS

help:  ## what can be made
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name what; do \
		printf 'make %-7s %s\n' "$$name" "$$what"; done

run: .venv/.ready-run  ## set up, and serve the community edition at http://127.0.0.1:8400
	@exec $(BIN)/clavitor serve

setup: .venv/.ready-dev  ## prepare .venv: the server, the command line and the test tools

test: lint  ## set up, and run every check and test
	@$(BIN)/python -m pytest -n $(PYTEST_WORKERS)

lint: .venv/.ready-dev  ## style, types and import rules
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "error: not formatted; run: .venv/bin/ruff format" >&2; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@report=$$($(BIN)/lint-imports --no-logo) || { echo "$$report"; exit 1; }

bench: .venv/.ready-dev  ## speed, as ratios to floors measured in the same run
	@exec $(BIN)/python -m bench

lock: .venv/.ready-dev  ## write bundles/*.lock anew: after every change of what is shipped
	@$(BIN)/clavitor bundle lock --all

references: .venv/.ready-dev  ## write the reference pages that are made from the code
	@$(BIN)/python tools/references.py

clean:  ## remove what was set up and built; data/ stays
	@rm -rf .venv .tools dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.ready-run: $(LOCKED)
	@tools/setup run

.venv/.ready-dev: $(LOCKED)
	@tools/setup dev
