# The two commands of the README. Each makes what it needs below .venv and .venv-core.
PYTHON ?= python3
.PHONY: conformance test test-slow test-floor test-latest lint

conformance: .venv-core/installed
	PYTHONDONTWRITEBYTECODE= .venv-core/bin/python -m pytest --rocm-attn-conformance

test: .venv/installed
	.venv/bin/python -m pytest -n 2

test-slow: .venv/installed
	.venv/bin/python -m pytest -m slow

# The oldest supported dependencies, and the newest on the index (CONTRIBUTING.md).
test-floor: .venv-floor/installed
	.venv-floor/bin/python -m pytest -n 2

test-latest: .venv-latest/installed
	.venv-latest/bin/python -m pytest -n 2

lint: .venv/installed
	.venv/bin/python -m pip install --quiet --group dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

.venv-core/installed: pyproject.toml
	$(PYTHON) -m venv .venv-core
	.venv-core/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	.venv-core/bin/python -m pip install --quiet --disable-pip-version-check --editable .
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
