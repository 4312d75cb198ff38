# fer-bench: everything below works in a fresh clone and installs into .venv, once.
# `make quick PYTHON=python3.12` takes another interpreter; 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MADE := $(VENV)/.made
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev

.DELETE_ON_ERROR:
.PHONY: help venv quick test postgres lint typecheck check speed ci clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | expand -t 12

venv: $(INSTALLED)  ## make .venv and install fer-bench into it

quick: $(INSTALLED)  ## train, vote and rank on the toy faces, with the real ImageNet weights
	$(BIN)/fer-bench run suites/quick.yaml

test: $(INSTALLED_DEV)  ## run the tests
	$(BIN)/python -m pytest

postgres:  ## install a PostgreSQL server for its tests, where apt and root or sudo are at hand
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { \
	  export DEBIAN_FRONTEND=noninteractive; sudo=$$([ "$$(id -u)" = 0 ] || echo "sudo -n -E"); \
	  timeout 300 $$sudo apt-get update -qq && timeout 300 $$sudo apt-get install -y -qq --no-install-recommends postgresql; }

lint: $(INSTALLED_DEV)  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(INSTALLED_DEV)  ## check types
	$(BIN)/mypy

check: $(INSTALLED)  ## verify every record, leaderboard.md and README's speed section
	$(BIN)/fer-bench leaderboard --check
	$(BIN)/python benchmark/speed --check

speed: $(INSTALLED)  ## measure the table of README's speed section here, over an hour on two CPU cores; DATA=PATH: on FER2013
	$(BIN)/python benchmark/speed $(if $(DATA),--data-dir "$(DATA)")

ci: test lint typecheck check  ## all that a pull request must pass

clean:  ## remove .venv and the caches of the tools, not runs/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is older than 3.11: give make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(INSTALLED): $(MADE) pyproject.toml
	@echo "installing fer-bench and what it needs into $(VENV); PyTorch alone is several gigabytes"
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# dependency groups need pip 25.1
$(INSTALLED_DEV): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@
