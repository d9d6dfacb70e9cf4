# make demo and make test do all the set-up on a fresh machine; see README.md.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test test-fast lint clean
help:
	@echo "make demo       environment, bundled photographs, a real sweep on this machine, its report"
	@echo "make test       environment, all tests (as root on Debian also those on a real SLURM)"
	@echo "make test-fast  without those that start Ray or SLURM"
	@echo "make lint       ruff and mypy"
	@echo "make clean      removes .venv and caches, never runs/"

.venv: .venv/ready
.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "slurmtune needs Python 3.10 or newer; name one: make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv .venv || { echo "$(PYTHON) has no venv module; on Debian: apt-get install python3-venv" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch .venv/ready

demo: .venv/ready
	$(BIN)/python launch/submit.py launch/demo/sweep.yaml --cluster local

test: .venv/ready
	@tests/slurm_cluster/install.sh
	$(BIN)/python -m pytest

test-fast: .venv/ready
	$(BIN)/python -m pytest -m 'not ray and not slurm'

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache *.egg-info
