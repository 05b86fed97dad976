# `make help` lists the targets. All of them work in .venv, which is made and kept up to date here.

PYTHON   ?= python3
DEMO_DIR ?= demo-data
PORT     ?=
ARGS     ?=
JOBS     ?= $(shell expr $$(nproc) + 1)
RERUNS   ?= 0

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip --disable-pip-version-check

# A file's tests stay together: they share the services and data that it starts with.
PYTEST = $(BIN)/python -m pytest --reruns=$(RERUNS)
PYTEST_TOGETHER = $(PYTEST) --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder

# The tests start hundreds of processes: without compiled modules, each compiles them once more.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-long test-deploy check lint types pytest pytest-prepared stress real-data bench format options clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'PYTHON=python3.12 picks the Python (3.11 or newer) that a new .venv is made with.'
	@echo 'JOBS=4 tests in so many processes (one more than processors, as tests also wait); JOBS=0 in one'
	@echo 'that takes --pdb. RERUNS=1 runs a test that fails once more, and tells of both.'
	@echo 'What tests draw at random, and how much of it, are options, given with ARGS and told when'
	@echo 'one fails: --seed, --crash-every, --histories, --stress-seconds, --hypothesis-profile.'

demo: $(VENV)/.package $(VENV)/.viewer  ## make demo data and serve it (PORT=9000, DEMO_DIR=demo-data); Ctrl-C stops it
	@exec $(BIN)/neurotrale demo $(if $(PORT),--port $(PORT)) $(DEMO_DIR)

test: check  ## lint, types, pytest: all that needs nothing but Python, in minutes

test-long: pytest-prepared  ## the tests that go on for longer: every crash, many examples, stress
	$(PYTEST_TOGETHER) --long $(ARGS)

test-deploy: $(VENV)/.dev $(VENV)/.package  ## the container images and job scripts, with the real programs (ARGS='-k docker')
	$(PYTEST) tests/deploy $(ARGS)

check: lint types pytest  ## another name for test

lint: $(VENV)/.dev  ## ruff: rules and format
	$(BIN)/python -m ruff check --quiet .
	$(BIN)/python -m ruff format --check --quiet .

types: $(VENV)/.dev  ## mypy --strict
	$(BIN)/python -m mypy

pytest: pytest-prepared  ## the tests of make test (ARGS='-k ranges -x')
	$(PYTEST_TOGETHER) $(ARGS)

pytest-prepared: $(VENV)/.dev $(VENV)/.package .cache/real-data/.complete

stress: $(VENV)/.dev $(VENV)/.package  ## a minute of many writers while workers are killed
	$(BIN)/python -m tests.stress --seconds 60 $(ARGS)

real-data: .cache/real-data/.complete  ## fetch the real images that some tests read

bench: $(VENV)/.bench $(VENV)/.package  ## measure against the targets, under ten minutes (ARGS='--only patching')
	$(BIN)/python -m benchmarks --plot docs/benchmarks.png $(ARGS)

format: $(VENV)/.dev  ## rewrite the code as lint wants it
	$(BIN)/python -m ruff check --quiet --fix .
	$(BIN)/python -m ruff format .

options: $(VENV)/.dev  ## write docs/options.md from the table of settings
	$(BIN)/python -m tests.options_page

clean:  ## remove .venv and all caches (demo-data/ stays: it may hold your annotations)
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- .venv: one stamp a step, so that only what changed is installed again ---

# An environment holds absolute paths: when it was copied or moved with the checkout, or the Python
# it was made with has gone, it is made anew.
ifneq ($(shell { $(BIN)/python -c '' && cat $(VENV)/.made; } 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/.made
endif

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "This needs Python 3.11 or newer, and '$(PYTHON)' is not: $$($(PYTHON) --version 2>&1)"; \
	    echo "Name another one:  make PYTHON=python3.12 $(MAKECMDGOALS)"; \
	    exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "'$(PYTHON)' cannot make virtual environments: its module venv or ensurepip is missing."; \
	    echo "On Debian and Ubuntu:  apt-get install python3-venv"; \
	    echo "Or name another Python:  make PYTHON=python3.12 $(MAKECMDGOALS)"; \
	    exit 1; } >&2
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)
	@echo '$(CURDIR)' > $@

$(VENV)/.runtime: requirements.txt $(VENV)/.made
	@echo 'installing requirements.txt'
	@$(PIP) install --quiet -r requirements.txt
	@touch $@

# Without what it depends on: the service takes the built viewer from it, and none of its code.
$(VENV)/.viewer: requirements-viewer.txt $(VENV)/.runtime
	@echo 'installing requirements-viewer.txt'
	@$(PIP) install --quiet --no-deps -r requirements-viewer.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	@echo 'installing requirements-dev.txt (a minute or two)'
	@$(PIP) install --quiet -r requirements-dev.txt
	@touch $@

$(VENV)/.bench: requirements-bench.txt $(VENV)/.runtime
	@echo 'installing requirements-bench.txt'
	@$(PIP) install --quiet -r requirements-bench.txt
	@touch $@

# The package is installed in place: a change of its code needs no new installation.
$(VENV)/.package: pyproject.toml neurotrale/__init__.py $(VENV)/.runtime
	@echo 'installing neurotrale in place'
	@$(PIP) install --quiet --no-deps --editable .
	@touch $@

.cache/real-data/.complete: tests/fetch_real_data.py | $(VENV)/.made
	@$(BIN)/python tests/fetch_real_data.py
	@touch $@
