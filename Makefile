# From a bare machine with Python, git and make:
#
#   make demo   a trained, evaluated and drawn detector: work_dirs/demo/report.html
#   make test   all tests
#
# Both install what they need first, into $(VENV).

PYTHON3 ?=
FIBER_VENV ?= .venv
VENV := $(FIBER_VENV)
PYTHON := $(VENV)/bin/python
DEMO_DIR ?= work_dirs/demo
DEMO_ARGS ?=
PYTEST_ARGS ?=
export PYTHON3 VENV

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format lock clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

install: ## Install the tested set of packages and this one into .venv (or FIBER_VENV)
	@bash requirements/install.sh

demo: install ## Make data, train, evaluate, draw; writes work_dirs/demo/report.html
	$(PYTHON) tools/demo.py --work-dir $(DEMO_DIR) $(DEMO_ARGS)

test: install ## Run all tests; PYTEST_ARGS="-m 'not slow'" leaves out the slow ones
	$(PYTHON) -m pytest $(PYTEST_ARGS)

lint: install ## Check style
	@status=0; \
	$(PYTHON) -m ruff check . || status=$$?; \
	$(PYTHON) -m ruff format --check . || status=$$?; \
	exit $$status

format: install ## Put the code into the project's format
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

lock: ## Freeze the newest allowed versions of all packages in requirements/constraints.txt
	@VENV=$(VENV)-lock bash requirements/install.sh --uv
	$(VENV)-lock/bin/python -m uv pip compile --universal --python-version 3.10 --no-annotate --upgrade \
	  --custom-compile-command 'make lock' -q -o requirements/constraints.txt \
	  requirements/runtime.txt requirements/tests.txt requirements/optional.txt

clean: ## Remove builds, caches and results; keeps the environment
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache work_dirs
	find fiber_mm tests tools configs -name __pycache__ -type d -prune -exec rm -rf {} +
