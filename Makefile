# Every target sets up what it needs: a virtual environment in .venv with this package in it.
#   make demo   run the example        make test   all checks and tests      make lint   checks only
#   make fmt    format the code        make fuzz   longer random tests       make bench  timings
#   make docs   the site of the documentation, in site/
#   make audit  known vulnerabilities of what is installed (needs the network)
#   make readme put the demo's table into the README           make clean  remove all that was made

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
BUILT_FROM := pyproject.toml hatch_build.py $(wildcard native/*)
AXE := tests/rendering/node_modules/axe-core/axe.min.js

export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo test lint fmt readme docs fuzz audit bench clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(INSTALLED)
	python -m serving --cluster-config 'configs/cluster/single_node_pp_instance.json' --dtype float16 --block-size 16 --dataset 'workloads/example_trace.jsonl' --output 'outputs/pp2_run.csv' --log-interval 1.0

test: lint $(AXE)
	$(BIN)/pytest -n auto

# The accessibility tests of the pages skip without it.
$(AXE):
	-command -v npm >/dev/null && npm install --silent --no-audit --prefix tests/rendering

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

readme: $(INSTALLED)
	$(BIN)/python tools/update_readme.py
	$(BIN)/python tools/update_python_page.py

docs: $(INSTALLED_DEV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/python tools/build_site.py site

fmt: $(INSTALLED_DEV)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

fuzz: $(INSTALLED_DEV)
	PYTHONPATH=tests $(BIN)/python -m reference.fuzz 2000
	PYTHONPATH=tests $(BIN)/python -m fuzz.mutations 20000
	PYTHONPATH=tests $(BIN)/python -m fuzz.hostile
	SIGNAL_INSTANTS=50 $(BIN)/pytest tests/cli/test_signals.py
	$(BIN)/pytest -n auto -m "not browser" --hypothesis-profile=fuzz

audit: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/python -m pip_audit --skip-editable

bench: $(INSTALLED_DEV)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) src/penstock/_core.* outputs site dist build .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@sh tools/make_venv.sh "$(VENV)" "$(PYTHON)"

$(INSTALLED): $(BIN)/python $(BUILT_FROM)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(INSTALLED_DEV): $(BIN)/python $(BUILT_FROM)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(INSTALLED) $@
