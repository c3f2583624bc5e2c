# Two commands do everything: `make train` and `make test`.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
EXPERIMENT ?= cask_su2
ARGS ?=
# a python of at least 3.11; override with `make PYTHON=/path/to/python ...`
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	&& { echo $$p; break; }; done)

.PHONY: help train test lint proof clean venv

help:
	@echo "make train [EXPERIMENT=name] [ARGS='seed=2 ...']   install if needed, then run an experiment"
	@echo "make test                                          linters, types, tests (at most 12 minutes)"
	@echo "make proof                                         longer proofs of exactness"
	@echo "make clean                                         remove the virtual environment and caches"

train: $(VENV)/installed
	$(PY) train.py experiment=$(EXPERIMENT) $(ARGS)

test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --durations=15 -m "not slow and not gpu"

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

proof: $(VENV)/installed
	mkdir -p experiments/proofs
	set -o pipefail; OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --durations=0 -m slow tests \
		| tee experiments/proofs/last_run.txt

venv: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python of at least 3.11 found; install one, or name it: make PYTHON=/path/to/python"; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
		echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu run:"; \
		echo "  sudo apt-get install python3-venv"; exit 1; fi
	@echo "Installing into $(VENV). Torch is the largest part: about 200 MB for the CPU build, several GB"
	@echo "with CUDA. For the CPU build: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make $(MAKECMDGOALS)"
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt torch
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
