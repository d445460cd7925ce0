# Each target sets up what it needs: a virtual environment in .venv with the versions of constraints.txt.
# PYTHON=python3.12 chooses the interpreter (3.10 to 3.12), JOBS=4 the number of test processes.

PYTHON ?=
JOBS ?= 2
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: help install demo test lint docs format clean

help:
	@echo "make demo    collect, pretrain, train with and without the shield, report (at most 10 minutes)"
	@echo "make test    the whole test suite (at most 10 minutes)"
	@echo "make lint    ruff, mypy and the import rules"
	@echo "make docs    the documentation site, in site/ (open site/index.html)"
	@echo "make format  let ruff format and mend what it can"
	@echo "make clean   remove .venv and the caches; your data/ and runs/ stay"

install: $(STAMP)

$(STAMP): constraints.txt setup.py scripts/install.sh
	@PYTHON="$(PYTHON)" bash scripts/install.sh
	@touch $@

demo: $(STAMP)
	@$(BIN)/python scripts/demo.py

# One thread a process: the networks are small, and two processes share two cores well.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir site

format: $(STAMP)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build site *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
