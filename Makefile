# Each target makes what it needs below .venv and .venv-core. `make help` lists them.
PYTHON ?= python3
# Triton interprets or compiles in a process, never both: these tests have a run of their own.
INTERPRETED := tests/backends/interpreted
# Hundreds of processes start in a run of the tests: each would compile this package again.
export PYTHONDONTWRITEBYTECODE :=
.DEFAULT_GOAL := help
.PHONY: help conformance test test-slow test-floor test-latest lint docs build clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

conformance: .venv-core/installed ## run the matrix on the reference selector; needs no torch
	.venv-core/bin/python -m pytest --rocm-attn-conformance

test: .venv/installed ## run the tests
	.venv/bin/python -m pytest -n 2
	.venv/bin/python -m pytest -n 2 $(INTERPRETED)

test-slow: .venv/installed ## run what takes minutes or needs downloads (ROCM_ATTN_VLLM_DIR)
	.venv/bin/python -m pytest -m slow
	.venv/bin/python -m pytest -m slow $(INTERPRETED)

test-floor: .venv-floor/installed ## run the tests with the oldest supported dependencies
	.venv-floor/bin/python -m pytest -n 2
	.venv-floor/bin/python -m pytest -n 2 $(INTERPRETED)

test-latest: .venv-latest/installed ## run the tests with the newest dependencies on the index
	.venv-latest/bin/python -m pytest -n 2
	.venv-latest/bin/python -m pytest -n 2 $(INTERPRETED)

lint: .venv/installed .typings/pytest_rocm_attn ## run ruff, the check of language, and mypy
	.venv/bin/python -m pip install --quiet --group dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/python tools/check_prose.py
	.venv/bin/mypy

docs: .venv-docs/installed ## build the site into build/site; a warning or a broken link is an error
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict

build: .venv/installed ## build sdist and wheel into dist/, and check what an index would show
	.venv/bin/python -m pip install --quiet build twine
	.venv/bin/python -m build
	.venv/bin/python -m twine check --strict dist/*

clean: ## remove what these targets and the tools leave, environments included
	rm -rf .venv .venv-core .venv-docs .venv-floor .venv-latest build dist *.egg-info .cache
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage rocm-attn-report.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Through these links mypy sees the folders that pyproject.toml maps into the package.
.typings/pytest_rocm_attn:
	mkdir -p $@
	ln -s ../../pytest_rocm_attn/__init__.py ../../backends ../../conformance $@

.venv-core/installed: pyproject.toml
	$(PYTHON) -m venv .venv-core
	.venv-core/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	.venv-core/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv-docs/installed: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --editable . --group docs
	touch $@

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[kernels]' --group test
	touch $@

.venv-floor/installed: pyproject.toml
	$(PYTHON) -m venv .venv-floor
	.venv-floor/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	.venv-floor/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[kernels]' --group floor
	touch $@

.venv-latest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-latest
	.venv-latest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	.venv-latest/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[kernels,hypothesis]' pytest-randomly pytest-xdist
	touch $@
