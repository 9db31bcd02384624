# The one thing a fresh machine needs is Python >= 3.11 with venv and pip; choose another one with `make PYTHON=python3.12`.
PYTHON ?= python3
PYTEST_ARGS ?=
PYTEST := -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder --durations=25 --durations-min=10
VENV := .venv
LOWER := .venv-lower-bounds

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install quickstart test test-all test-lower-bounds lint clean

help: ## says what there is to make
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1|\2/p' Makefile | awk -F'|' '{printf "%-24s %s\n", $$1, $$2}'

install: $(VENV)/installed ## makes .venv with the package (editable) and what most tests need

quickstart: install ## discovers a small rule, compares it with PPO and A2C in worlds it never saw, draws a picture
	@$(VENV)/bin/python -m experiments.quickstart

test: $(VENV)/suites-installed ## runs the test suite (PYTEST_ARGS='-k name' for a part of it)
	@$(VENV)/bin/python $(PYTEST) $(PYTEST_ARGS)

test-all: $(VENV)/suites-installed ## runs the test suite and the long learning runs
	@$(VENV)/bin/python $(PYTEST) -m '' $(PYTEST_ARGS)

test-lower-bounds: $(LOWER)/installed ## runs the test suite with the oldest versions that setup.cfg allows
	@$(LOWER)/bin/python $(PYTEST) $(PYTEST_ARGS)

lint: install ## checks style, formatting and types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

clean: ## removes .venv and every cache, and leaves runs/ alone
	rm -rf $(VENV) $(LOWER) .cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

$(VENV)/installed: setup.cfg pyproject.toml
	$(call new_environment,$(VENV))
	@echo 'Installing rulespace into $(VENV): the first time this takes a few minutes.'
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --editable '.[test]'
	@touch $@

# One by one: where an extra has no packages for this machine, the others are there all the same.
$(VENV)/suites-installed: $(VENV)/installed
	@for extra in crafter minatar nethack procgen bucket launch data; do \
	  $(VENV)/bin/python -m pip install -qq --disable-pip-version-check --editable ".[$$extra]" || \
	  echo "The extra '$$extra' cannot be installed here: its tests will be skipped." >&2; \
	done
	@touch $@

$(LOWER)/installed: setup.cfg pyproject.toml
	$(call new_environment,$(LOWER))
	@sed -nE 's/^ +([A-Za-z0-9-]+)(\[[a-z0-9]+\])? >= ([^,]+).*/\1==\3/p' setup.cfg > $(LOWER)/constraints.txt
	@$(LOWER)/bin/python -m pip install -qq --disable-pip-version-check --editable '.[test]' \
	  --constraint $(LOWER)/constraints.txt
	@touch $@

define new_environment
@command -v '$(PYTHON)' > /dev/null || { \
  echo 'There is no $(PYTHON) on this machine. Install Python 3.11 or newer, or name one: make PYTHON=python3.12' >&2; exit 1; }
@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
  echo 'rulespace needs Python 3.11 or newer, and $(PYTHON) is not. Name another: make PYTHON=python3.12' >&2; exit 1; }
@'$(PYTHON)' -c 'import venv, ensurepip' 2> /dev/null || { \
  echo '$(PYTHON) lacks venv or pip. Install them (on Debian and Ubuntu: apt install python3-venv) and try again.' >&2; exit 1; }
@test -x $(1)/bin/python || '$(PYTHON)' -m venv $(1)
@# A pip of 2023 tries older packages by the hundred before it can install xmanager beside the others.
@$(1)/bin/python -m pip install -qq --disable-pip-version-check --upgrade pip
endef
