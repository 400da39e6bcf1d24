# The commands of the README. `make run` and `make test` need only Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
CONFIG ?= configs/adni.py
ARGS ?=

.PHONY: run test test-slow coverage lint docs benchmark clean

run: $(VENV)/.installed
	$(VENV)/bin/python -m eqpool.main --config=$(CONFIG) $(ARGS)

test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -n 2 -m slow $(ARGS)

coverage: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -n 2 --cov=eqpool --cov-report=term:skip-covered $(ARGS)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

docs: $(VENV)/.installed-dev
	$(VENV)/bin/python -m sphinx -W -b html docs docs/_build/html

benchmark: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest benchmarks -o python_files='bench_*.py' --benchmark-enable -p no:xdist $(ARGS)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "eqpool needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

define announce
@echo "Installing eqpool and its packages into $(VENV). pip downloads them, which takes minutes on a slow network, and they take 1.4 GB on disk. pip prints errors alone."
endef

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(announce)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(announce)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build *.egg-info
