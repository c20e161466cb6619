# Each target does its own set-up: a virtual environment in .venv, filled from constraints.txt.
# The stamps inside .venv make a second run start at once; they age when the pins change.

PYTHON ?= python3
# Tests wait for other processes a third of their time.
JOBS   ?= $(shell $(PYTHON) -c "import os; print(max(1, 3 * os.cpu_count() // 2))")
ARGS   ?=

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip --disable-pip-version-check --quiet

# A population is one tensor program: a second thread pool a process only fights the first.
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test gpu faults lint format screenshots constraints clean
.DELETE_ON_ERROR:

help:  ## Lists the targets.
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/.installed  ## Starts server and workers, tunes a real model, shows the dashboard.
	$(BIN)/tuner demo $(ARGS)

test: $(VENV)/.installed-dev  ## Runs every test.
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

gpu: $(VENV)/.installed-dev  ## Runs the tests that need a GPU, then optimizers and populations against the clock.
	$(BIN)/python -m pytest -m gpu tests/tuner/optimizers tests/tuner/training $(ARGS)
	$(BIN)/python benchmarks/optimizers.py --device cuda --quick
	$(BIN)/python benchmarks/population.py --device cuda --quick --slots 16,64,256

faults: $(VENV)/.installed-dev  ## Kills, freezes and cuts off every part many times; prints what was lost.
	$(BIN)/python -m tests.faults $(ARGS)

lint: $(VENV)/.installed-dev  ## Ruff, mypy and the contracts between the rooms.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.installed-dev  ## Formats the code and mends what ruff can mend.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

screenshots: $(VENV)/.installed-dev  ## Writes pictures of the dashboard into screenshots/.
	mkdir -p screenshots
	TUNER_SCREENSHOTS=$(CURDIR)/screenshots $(BIN)/python -m pytest tests/api -k screenshots $(ARGS)

constraints: $(VENV)/.installed-dev  ## Resolves every dependency anew and pins it.
	$(BIN)/python .ci/constraints.py > constraints.new
	mv constraints.new constraints.txt

clean:  ## Removes the environment, the caches and what builds leave behind.
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find tuner api migrations tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "tuner needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "python3 has no venv module here; on Debian: apt-get install python3-venv" >&2; exit 1; }

# The build backend comes from the constraints too, hence no isolated build.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt hatchling
	$(PIP) install -c constraints.txt --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt hatchling
	$(PIP) install -c constraints.txt --no-build-isolation -e ".[dev]"
	@touch $@ $(VENV)/.installed
