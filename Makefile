# What a person and CI do with the project, by the same commands. Each target makes `.venv` first if it is missing.

PYTHON ?= python3
CONFIG ?= configs/vit_ft.py
FLAGS ?=
TESTS ?=
PROCESSES ?= 2

# Files stay whole, so that what a module's tests share is made once.
PYTEST = $(BIN)/python -m pytest -q -n $(PROCESSES) --dist loadfile
ELSEWHERE := not gpu and not network

BIN := .venv/bin
STAMP := .venv/.made

.PHONY: run test test-slow check format bench env clean
.DEFAULT_GOAL := run

run: $(STAMP)  ## fine-tune by CONFIG; further flags in FLAGS, such as FLAGS="--config.train.seed=1"
	@$(BIN)/python -m jtl.main --config $(CONFIG) $(FLAGS)

test: $(STAMP)  ## the tests but the slow ones, or of those that TESTS names, in PROCESSES processes
	@$(PYTEST) -m "not slow and $(ELSEWHERE)" $(TESTS)

test-slow: $(STAMP)  ## the slow tests: killed runs, whole command lines, large sizes, memory
	@$(PYTEST) -m "slow and $(ELSEWHERE)" $(TESTS)

check: $(STAMP)  ## lint, format and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/pyright

format: $(STAMP)  ## mend what `check` can mend by itself
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: $(STAMP)  ## measure feed, step and loop of CONFIG, from random weights; FLAGS="--out bench.json" keeps a record
	@$(BIN)/python -m jtl bench --config $(CONFIG) --config.model.weights=none $(FLAGS)

env: $(STAMP)  ## the environment alone

clean:  ## remove the environment and the caches
	@rm -rf .venv .pytest_cache .ruff_cache dist build

# Made anew when the requirements change; an interrupted attempt leaves no stamp and is repeated.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jtl needs Python 3.11 or newer, \
	this is " + sys.version.split()[0] + "; give another: make PYTHON=python3.12")'
	@echo "making .venv (a few minutes the first time)" >&2
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $@
