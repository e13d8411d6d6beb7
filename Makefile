# Each target makes what it needs below .venv and .venv-core. `make help` lists them.
PYTHON ?= python3
# Triton interprets or compiles in a process, never both: these tests have a run of their own, next to the
# other, whose workers wait for what hangs. What it prints comes last.
INTERPRETED := tests/backends/interpreted
# One worker more than a small machine has cores, as some tests wait for what hangs. A worker keeps to the
# modules that it is given, so that what a module shares is made once, and then takes tests from the others.
WORKERS ?= 3
PARALLEL := -n $(WORKERS) --dist worksteal
define both-runs
	@mkdir -p build; \
	$(1) -m pytest $(INTERPRETED) > build/interpreted.txt 2>&1 & interpreted=$$!; \
	$(1) -m pytest $(PARALLEL) --ignore=$(INTERPRETED); status=$$?; \
	wait $$interpreted || status=1; cat build/interpreted.txt; exit $$status
endef
# Hundreds of processes start in a run of the tests: each would compile this package again.
export PYTHONDONTWRITEBYTECODE :=
.DEFAULT_GOAL := help
.PHONY: help conformance test test-slow test-releases test-floor test-floor-plugin test-latest lint docs build clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' Makefile

conformance: .venv-core/installed ## run the matrix on the reference selector; needs no torch
	.venv-core/bin/python -m pytest --rocm-attn-conformance

test: .venv/installed ## run the tests
	$(call both-runs,.venv/bin/python)

test-slow: .venv/installed ## run what takes minutes or needs downloads (ROCM_ATTN_VLLM_DIR)
	.venv/bin/python -m pytest -m slow
	.venv/bin/python -m pytest -m slow $(INTERPRETED)

test-releases: ## run tiers and known regressions on unmodified releases of vLLM (downloads some GB)
	.ci/releases

test-floor: .venv-floor/installed ## run the tests with the oldest supported dependencies
	$(call both-runs,.venv-floor/bin/python)

test-floor-plugin: .venv-floor-plugin/installed ## the same for the plugin's tests that need no torch
	.venv-floor-plugin/bin/python -m pytest $(PARALLEL) tests/plugin \
	  --ignore=tests/plugin/dry_launch --ignore=tests/plugin/emulator

test-latest: .venv-latest/installed ## run the tests with the newest dependencies on the index
	$(call both-runs,.venv-latest/bin/python)

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
	rm -rf .venv .venv-core .venv-docs .venv-floor .venv-floor-plugin .venv-latest .venv-vllm
	rm -rf build dist *.egg-info .cache
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

.venv-floor-plugin/installed: pyproject.toml
	$(PYTHON) -m venv .venv-floor-plugin
	.venv-floor-plugin/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	.venv-floor-plugin/bin/python -m pip install --quiet --disable-pip-version-check --editable . --group floor-plugin
	touch $@

.venv-latest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-latest
	.venv-latest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	.venv-latest/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[kernels,hypothesis]' pytest-randomly pytest-xdist
	touch $@

.venv-vllm/installed: pyproject.toml docs/real-vllm-requirements.txt .ci/vllm-constraints.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[kernels]' --group test \
	  --requirement docs/real-vllm-requirements.txt --constraint .ci/vllm-constraints.txt
	touch $@
