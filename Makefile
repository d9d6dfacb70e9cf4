# make demo and make test do all the set-up on a fresh machine; see README.md.
PYTHON ?= python3
BIN := .venv/bin
FAULTS ?= runs/faults
JOBS ?= 4
PYTEST := $(BIN)/python -m pytest --durations=15 -n $(JOBS) --dist loadfile --no-loadscope-reorder
CACHES := .pytest_cache .mypy_cache .ruff_cache *.egg-info

.NOTPARALLEL:
.PHONY: help .venv demo test test-fast faults lint docs lock clean
help:
	@echo "make demo       environment, bundled photographs, a real sweep on this machine, its report"
	@echo "make test       environment, all tests (as root on Debian also those on a real SLURM)"
	@echo "make test-fast  without those that start Ray or SLURM"
	@echo "make faults     real sweeps killed at random moments, 30 times each way; hours, goes on when run again"
	@echo "make lint       ruff and mypy"
	@echo "make docs       the pages of docs/commands, from each command's --help"
	@echo "make lock       requirements.lock from pyproject.toml"
	@echo "make .venv      the environment alone; another Python: make .venv PYTHON=python3.12"
	@echo "make clean      removes .venv and caches, never runs/"

# One command installs torch and torchvision together, in the ranges of pyproject.toml: a torchvision made for another
# torch does not load. The stamp is written last, so that a broken installation is not taken for a whole one.
.venv: .venv/ready
.venv/ready: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here; slurmtune needs Python 3.10 or newer, name one: make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "make: slurmtune needs Python 3.10 or newer, not $$($(PYTHON) --version); name one: make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) lacks the venv module; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@echo "installing torch and the other packages into .venv, several GB the first time" >&2
	@[ -t 1 ] || quiet=--quiet; set -x; $(BIN)/python -m pip install $$quiet --disable-pip-version-check -e '.[dev]'
	@touch .venv/ready

demo: .venv/ready
	$(BIN)/python launch/submit.py launch/demo/sweep.yaml --cluster local

# Where SLURM cannot be installed the other tests run; those on SLURM are skipped, or fail with SLURMTUNE_REQUIRE_SLURM=1.
# Without a browser, zsh or fish the tests in them are skipped.
test: .venv/ready
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		tests/slurm_cluster/install.sh || true; tests/launch/install.sh || true; fi
	$(PYTEST) -m 'not faults'

test-fast: .venv/ready
	$(PYTEST) -m 'not ray and not slurm and not faults'

faults: .venv/ready
	$(BIN)/python tests/faults/campaign.py --out $(FAULTS)
	$(BIN)/python -m pytest -m faults

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/ready
	$(BIN)/python docs/commands.py

# Every package at one version, for all supported Pythons.
lock: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@{ sed -n '/^#/p' requirements.lock; $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.10 --no-header --no-annotate --quiet; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean:
	rm -rf .venv $(CACHES)
	find hpo launch slurm tests -name __pycache__ -prune -exec rm -rf {} +
