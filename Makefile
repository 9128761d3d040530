# What a developer and CI run. `make` alone lists the targets.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PROTOS := $(wildcard protos/looksmith/*/*.proto)

.DEFAULT_GOAL := help
.PHONY: help setup lint test constraints

help:  ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/\1|\2/p' Makefile | while IFS='|' read -r target doc; do printf '%-12s %s\n' "$$target" "$$doc"; done

setup: $(READY)  ## make .venv, with the versions in constraints.txt

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Looksmith needs Python 3.11 or newer; name one with make PYTHON=...' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	@touch $@

lint: $(READY)  ## check style, types and protos
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(if $(PROTOS),$(BIN)/buf lint)

test: $(READY)  ## run the tests
	$(BIN)/pytest

constraints:  ## resolve pyproject.toml afresh into constraints.txt
	rm -rf build/resolve
	$(PYTHON) -m venv build/resolve
	build/resolve/bin/pip install -e '.[dev]'
	{ grep '^#' constraints.txt; build/resolve/bin/pip freeze --all --exclude pip --exclude-editable | sed 's/+.*//'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -r build/resolve
