# AI Factory. `make demo` shows the whole chain, `make test` proves it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
# The first of these that runs and is new enough: a name on the path may be a shim that does not.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
RUN := .venv/bin/python
# Two workers share the tests, file by file; WORKERS=0 runs them in one process.
WORKERS ?= 2
PYTEST := -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help install demo up test check lint messages lock bench clean

help: ## what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

install: .venv/installed ## the environment in .venv, made or brought up to date

.venv/installed: requirements.txt
	@scripts/require.sh "$(PYTHON)"
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo "Installing the pinned packages into .venv (about 1.5 GB, a minute or two) ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: install ## base model -> fine-tune -> evaluate -> deploy -> chat -> statement; EXIT=1 stops after it
	@$(RUN) manage.py demo $(if $(EXIT),--exit)

up: install ## the platform alone, until Ctrl-C
	@$(RUN) manage.py up

test: install ## all tests, on real PostgreSQL and Redis
	@$(RUN) $(PYTEST) $(ARGS)

lint: install ## lint, types, import contracts, templates, migrations
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@.venv/bin/lint-imports
	@.venv/bin/djlint --check templates
	@$(RUN) scripts/check_pins.py
	@$(RUN) -m mypy .
	@DJANGO_SETTINGS_MODULE=factory.settings.test $(RUN) scripts/check_project.py

check: lint ## everything that CI runs: lint, then the tests with branch coverage
	@$(RUN) $(PYTEST) --cov --cov-report=term:skip-covered --durations=60 --durations-min=3 $(ARGS)

messages: install ## collect the pages' strings and compile their translations (needs GNU gettext)
	@$(RUN) manage.py makemessages -l zh_Hans --no-location --no-obsolete --ignore='*/tests/*' \
		--ignore=.venv --ignore=node_modules
	@$(RUN) manage.py compilemessages -l zh_Hans --ignore=.venv

lock: ## compile requirements.in into requirements.txt
	@$(PYTHON) -m venv --clear .venv
	@$(RUN) -m pip install --quiet -r requirements.in
	@$(RUN) -m pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.txt
	@touch .venv/installed

bench: install ## the benchmarks and the table in docs/benchmarks.md
	@$(RUN) benchmarks/run.py

clean: ## remove caches, not data
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache htmlcov .coverage
