# The commands for developers. `make demo` and `make test` need only Python 3.11 to 3.13: each
# creates .venv first. The file works with GNU make 3.81, which macOS still has.

VENV := .venv
BIN := $(VENV)/bin
# The stamp names this folder: scripts of a moved or copied environment run the old one.
STAMP := $(VENV)/installed-$(shell pwd | cksum | cut -d ' ' -f 1)
# An environment whose Python was removed by a system upgrade is created again.
$(shell test -x $(BIN)/python || rm -f $(VENV)/installed-*)
# The first of these that can create a virtual environment is used: `make PYTHON=… install`.
PYTHON ?= python3.13 python3.12 python3.11 python3 python

.DEFAULT_GOAL := help
.PHONY: help install check fix demo test test-long test-compose bench up down clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## Create .venv with the exact versions of constraints.txt

check: $(STAMP) ## Lint, format, types, import contracts, spelling: what CI runs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

fix: $(STAMP) ## Let ruff fix and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

demo: $(STAMP) ## Send a folder through a real Kafka and verify it; DATA=folder sends your own
	@$(BIN)/streamapp demo $(if $(DATA),--data '$(DATA)')

test: $(STAMP) ## Run all tests but the long ones, on brokers they start themselves
	$(BIN)/python -m pytest -m 'not long'

test-long: $(STAMP) ## Run only the long tests (power loss, thousands of kills)
	$(BIN)/python -m pytest -m long

test-compose: $(STAMP) ## Test docker-compose.yml: needs Docker, or root on Debian
	$(BIN)/python -m pytest -m compose -rs tests/compose

bench: $(STAMP) ## Measure against Kafka's own perf test (docs/benchmarks.md)
	$(BIN)/python -m bench

up: ## Start three brokers, Kafka UI and two workers in Docker
	docker compose up --detach --build --wait

down: ## Stop them; their volumes remain
	docker compose down

clean: ## Remove .venv, caches and build results; no data
	rm -rf $(VENV) build dist *.egg-info .coverage .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One shell command, so that the Python that was found is known until its end.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	@old=; bare=; found=; \
	for python in $(PYTHON); do \
	  $$python -c '' >/dev/null 2>&1 || continue; \
	  if ! $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then \
	    old="$$old $$python"; \
	  elif ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	    bare="$$bare $$python"; \
	  else \
	    found=$$python; break; \
	  fi; \
	done; \
	if [ -z "$$found" ] && [ -n "$$bare" ]; then \
	  echo "make:$$bare cannot make a virtual environment: install its venv package" \
	    "(Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; \
	elif [ -z "$$found" ]; then \
	  echo "make: streamapp needs Python 3.11, 3.12 or 3.13; found$${old:- none}." \
	    "Install one, or name it: make PYTHON=/path/to/python install" >&2; exit 1; \
	fi; \
	[ -e $@ ] || $$found -m venv --clear $(VENV) || exit 1; \
	echo "Installing streamapp and what it needs into $(VENV)" \
	  "($$($(BIN)/python --version); a minute or two the first time) ..."; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input \
	  --constraint constraints.txt --editable '.[local,dev]' || { \
	  echo "make: the installation failed; the lines above say why. Run the same again." >&2; \
	  exit 1; }
	@touch $@
