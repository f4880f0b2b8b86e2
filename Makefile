# Outrider: every target sets up what it needs by itself; git, make and Python 3.11 or later are enough.

PYTHON_IN_VENV = .venv/bin/python
PYTEST = $(PYTHON_IN_VENV) -m pytest
WORKERS ?= 3
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint coverage soak bench peers clean plan

help:
	@echo 'make demo    deliver real messages through a miniature signed mail Internet on loopback (DEMO_ARGS=...)'
	@echo 'make test    all tests, with real mail and DNS servers where they can be had (PYTEST_ARGS=...)'
	@echo 'make lint    ruff, mypy and the import contracts'
	@echo 'make coverage  the tests again, and which lines they reach'
	@echo 'make soak    the long forms of the tests'
	@echo 'make bench   measurements; beside Postfix and Exim after make peers (BENCH_ARGS="relay --scenario plain")'
	@echo 'make peers   fetch Exim, Postfix, NSD, unbound and databases into .peers/ (Debian, root; installs nothing)'
	@echo 'make clean   remove everything that make made'
	@echo 'PYTHON=...   chooses the interpreter that .venv is made with; WORKERS=... how many tests run at once'

# The stamps are older than pyproject.toml when dependencies may have changed.
.venv/.run: pyproject.toml
	@sh .ci/venv run
.venv/.dev: pyproject.toml
	@sh .ci/venv dev

demo: .venv/.run
	@$(PYTHON_IN_VENV) -m tests.internet.demo $(DEMO_ARGS)

# What will be fetched is said before anything is.
plan:
	@sh .ci/venv plan
	@sh tests/interop/install_peers.sh plan

peers:
	@sh tests/interop/install_peers.sh

test: plan
	@$(MAKE) --no-print-directory .venv/.dev peers
	@$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=10 $(PYTEST_ARGS)

coverage: plan
	@$(MAKE) --no-print-directory .venv/.dev peers
	@$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term $(PYTEST_ARGS)

soak: plan
	@$(MAKE) --no-print-directory .venv/.dev peers
	@OUTRIDER_SOAK=1 $(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder -o faulthandler_timeout=7200 --timeout=1800 --durations=10 $(PYTEST_ARGS)

lint: .venv/.dev
	@status=0; \
	.venv/bin/ruff check . || status=1; \
	.venv/bin/ruff format --check . || status=1; \
	.venv/bin/mypy --strict -p deliver -p events -p hints || status=1; \
	.venv/bin/lint-imports || status=1; \
	exit $$status

bench: .venv/.run
	@$(PYTHON_IN_VENV) -m bench $(BENCH_ARGS)

clean:
	rm -rf .venv .peers .coverage .coverage.* .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
