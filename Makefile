# Every target first makes what it needs: a Python environment with the versions of constraints.txt, made once and
# brought up to date when pyproject.toml or constraints.txt change. `make test PYTHON=python3.12` takes another Python,
# in an environment of its own.
PYTHONS = $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10)
VENV = .venv$(if $(PYTHON),-$(notdir $(PYTHON)))
READY = $(VENV)/ready
RUN = $(VENV)/bin/python
CONSTRAINTS = constraints.txt
# Threads of torch that wait sleep: tests that run programs side by side would else take each other's cores.
export OMP_WAIT_POLICY ?= PASSIVE
# Files as a whole go to one process, in the order of conftest.py: the longest first.
PARALLEL = --numprocesses logical --dist loadfile --no-loadscope-reorder
PIP = $(RUN) -m pip install --quiet --no-input --disable-pip-version-check --constraint $(CONSTRAINTS)

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' Makefile | awk -F': ' '{ printf "make %-12s %s\n", $$1, $$2 }'

# Processes with one thread each: two threads each took 1.6 times the processor.
test coverage: export OMP_NUM_THREADS ?= 1

test: $(READY)  ## run the tests; ARGS="-k volumes" passes options to pytest
	$(RUN) -m pytest $(PARALLEL) $(ARGS)

demo: $(READY)  ## run the modules on real images; DATA=folder takes your own volumes
	$(RUN) Testing/demo.py $(if $(DATA),--data "$(DATA)")

bench: $(READY)  ## measure speed and memory against torch's own optimisers
	$(RUN) Testing/benchmarks/run.py $(ARGS)

screenshots: $(READY)  ## draw the pictures of the README and the tutorial
	$(RUN) Testing/screenshots.py

lint: $(READY)  ## check style, format and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(READY)  ## put the code into the common format
	$(RUN) -m ruff check --fix --select I .
	$(RUN) -m ruff format .

coverage: $(READY)  ## how much of the library and the modules the tests run
	$(RUN) -m pytest $(PARALLEL) --cov --cov-report term:skip-covered $(ARGS)

fuzz: $(READY)  ## read thousands of damaged files, and say what came of them
	$(RUN) Testing/fuzz/models.py
	$(RUN) Testing/fuzz/checkpoints.py
	$(RUN) Testing/fuzz/networks.py
	$(RUN) Testing/fuzz/images.py

clean:  ## delete what was generated, except the environments
	rm -rf build *.egg-info .pytest_cache .hypothesis .ruff_cache Testing/output
	find */ -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml $(CONSTRAINTS)
	@echo "Setting up $(VENV); the first time this downloads packages for some minutes"
	@$(RUN) -m pip --version >/dev/null 2>&1 || { \
	  for python in $(PYTHONS); do \
	    "$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || continue; \
	    "$$python" -m venv $(VENV) && exit; \
	    echo "$$python cannot make environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; \
	  done; \
	  echo "None of these is Python 3.10 to 3.13: $(PYTHONS). Install one, or name it: make test PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PIP) pip setuptools
	@$(PIP) --no-build-isolation --editable ".[test]" || { \
	  echo "Not all packages installed, see above. README.md says which systems have all of them." >&2; exit 1; }
	@touch $@

.PHONY: help test demo bench screenshots lint format coverage fuzz clean
