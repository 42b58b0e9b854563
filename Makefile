# Every target makes its own environment in .venv: none has to be set up or activated first.
# PYTHON=/path/to/python3.12 chooses the interpreter; ARGS="..." is handed on to the command.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-long browser check format bench bench-throttle docs screenshots wheel lock clean

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
ARGS ?=

# A test starts hundreds of processes; none of them is to compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

# uv is to trust whom this machine trusts, as pip does; older versions know the second name only.
export UV_SYSTEM_CERTS ?= 1
export UV_NATIVE_TLS ?= 1

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## the whole story on this machine: no account, nothing sent anywhere
	@$(BIN)/syncshift demo $(ARGS)

test: check ## check, then every test, with coverage of at least 95 %
	@test -f $(AXE)/axe.min.js || echo "No axe-core: the page is not opened in a browser (make browser)." >&2
	$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term $(ARGS)

test-long: $(READY) ## the same claims at full size; takes a while
	$(BIN)/python -m pytest -m long --timeout 3600 $(ARGS)

# Debian's Chromium, and axe-core in .browser; the tests of the page say what is missing.
browser: ## get what the tests of the page need: Chromium (as root, by apt-get) and axe-core (by npm)
	@set -eu; \
	if ! command -v chromium >/dev/null 2>&1; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq -o DPkg::Lock::Timeout=300 --no-install-recommends chromium >/dev/null; \
	fi; \
	if ! command -v npm >/dev/null 2>&1; then \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=300 --no-install-recommends npm >/dev/null; \
	fi; \
	if [ ! -f $(AXE)/axe.min.js ]; then \
		if [ -f $(CA) ]; then export npm_config_cafile=$(CA); fi; \
		npm install --prefix .browser --no-save --no-package-lock --no-audit --no-fund --no-update-notifier --loglevel=error \
			axe-core@4.14.1; \
	fi
AXE := .browser/node_modules/axe-core
# npm knows its own list of authorities only; the machine's may have one more.
CA := /etc/ssl/certs/ca-certificates.crt

check: $(READY) ## format, lint, types, layers, dependencies
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry --no-ansi .

format: $(READY) ## put the code into the form that check asks for
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

bench: $(READY) ## measure what is claimed about speed and memory
	$(BIN)/python -m benchmarks $(ARGS)

bench-throttle: $(READY) ## pace against servers of every kind, in virtual time, 20 seeds each
	$(BIN)/python -m benchmarks throttle $(ARGS)

docs: $(READY) ## bring the reference up to date and build docs/ into site/, every link checked
	$(BIN)/python -m docs.handbook reference
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict $(ARGS)

screenshots: $(READY) ## take the pictures in docs/pictures anew, of real runs (needs make browser)
	$(BIN)/python -m docs.handbook pictures

wheel: $(READY) ## build dist/syncshift-*.whl
	$(BIN)/hatchling build --target wheel --directory dist

# uv writes no address of an index unless it is asked to; keep it so.
lock: ## pin requirements/*.txt anew from pyproject.toml (needs uv; ARGS=--upgrade takes newer ones)
	@command -v uv >/dev/null || { echo "make lock needs uv: python3 -m pip install uv" >&2; exit 1; }
	uv pip compile pyproject.toml $(LOCK) $(ARGS) --output-file requirements/run.txt
	uv pip compile pyproject.toml $(LOCK) $(ARGS) --output-file requirements/dev.txt \
		$(EXTRAS) --group dev --constraint requirements/run.txt
	uv pip compile pyproject.toml $(LOCK) $(ARGS) --output-file requirements/image.txt \
		$(EXTRAS) --constraint requirements/dev.txt
	uv pip compile --group build $(LOCK) $(ARGS) --output-file requirements/build.txt \
		--constraint requirements/dev.txt
EXTRAS := --extra fast --extra metrics --extra postgres --extra traces
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-header

clean: ## remove the environment, what was built, and the tools' caches
	rm -rf $(VENV) .browser dist site htmlcov .coverage .coverage.* .hypothesis \
		.import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find benchmarks docs jobs runner tests -type d -name __pycache__ -prune -exec rm -rf {} +

# Made anew, not brought up to date: what is in it is then exactly what is pinned. --no-deps and
# --no-build-isolation, because all that the project needs to be installed is among the pins; pip
# would even refuse them where an extra is asked for and a newer release is out (pypa/pip 9644).
$(READY): requirements/dev.txt pyproject.toml
	@set -eu; \
	python=; \
	for name in $(PYTHON); do \
		if "$$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
			>/dev/null 2>&1; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Syncshift needs Python 3.11 or newer with its venv module." >&2; \
		echo "Tried: $(PYTHON)." >&2; \
		echo "Install one (on Debian: python3 and python3-venv)," >&2; \
		echo "or name one: make PYTHON=/path/to/python3.12 $(or $(MAKECMDGOALS),test)" >&2; \
		exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$python" --version) ..." >&2; \
	rm -rf $(VENV); \
	if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --python "$$(command -v "$$python")" $(VENV); \
		install="uv pip install --quiet --python $(BIN)/python"; \
	else \
		"$$python" -m venv $(VENV); \
		install="$(BIN)/python -m pip install -qq --disable-pip-version-check"; \
	fi; \
	$$install --no-deps --require-hashes -r requirements/dev.txt; \
	$$install --no-deps --no-build-isolation --editable .; \
	touch $(READY)
