# `make run` and `make test` set up all that they need in .venv and leave what is there alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
GROUND := pyproject.toml constraints.txt
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

.PHONY: run test test-fast test-rest test-all test-oldest check bench faults screenshots clean

run: $(VENV)/.installed  ## the dashboard on the offline demo; headless where there is no terminal
	@$(BIN)/lmplay-tui --training-plan demo

test: $(VENV)/.installed-dev  ## `check` and `test-fast` side by side: 4 to 7 minutes on two cores
	@$(MAKE) --jobs 2 check test-fast

test-fast: $(VENV)/.installed-dev  ## the tests that are not long, some cases of those that are sampled
	$(PYTEST) -m "not slow and not long" --hypothesis-profile few

test-rest: $(VENV)/.installed-dev  ## what `make test` leaves out: the long tests, and all examples of the others
	$(PYTEST) -m "(long or sampled or hypothesis) and not slow"

test-all: check  ## both of them at once
	$(PYTEST) -m "not slow"

test-oldest: $(GROUND)  ## the fast tests of models and training on the oldest torch that pyproject.toml admits
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --disable-pip-version-check --editable '.[dev]' \
		"$$(sed -n 's/^ *"torch>=\([0-9.]*\)".*/torch==\1.0/p' pyproject.toml)"
	$(VENV)-oldest/bin/python -m pytest --numprocesses 2 tests/train tests/models

check: $(VENV)/.installed-dev  ## ruff, format, types, which room may import which, and the rules of tests/house.py
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tests.house
	$(BIN)/mypy

bench: $(VENV)/.installed  ## one table: train, resume, save, tokenize, cut, journal, starts, ui, scaling, ranks
	$(BIN)/python -m tests.bench all

faults: $(VENV)/.installed-dev  ## the long form of the fault tests, 45 to 80 minutes on two cores; then all other slow tests
	$(PYTEST) -m "slow or not slow" --timeout 3600 tests/faults tests/plan/test_fuzz.py
	$(PYTEST) -m slow --timeout 3600 --ignore tests/faults --ignore tests/plan/test_fuzz.py

screenshots: $(VENV)/.installed-dev  ## the pictures in docs/
	$(BIN)/python -m tests.screenshots

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(GROUND) | $(BIN)/python
	@echo "Installing lmplay-tui into $(VENV), once. torch is most of it: up to 3 GB with its libraries for a GPU."
	@$(PIP) --editable .
	@echo "The commands are in $(BIN): type $(BIN)/lmplay-tui, or first: . $(BIN)/activate"
	@touch $@

$(VENV)/.installed-dev: $(GROUND) | $(BIN)/python
	@echo "Installing lmplay-tui and its test tools into $(VENV), once ..."
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.installed
