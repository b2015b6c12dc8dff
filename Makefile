# `make demo` and `make test` are all a fresh machine needs; each makes .venv if there is none.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CODE := setup.py engine training export benchmarks tests
INSTALLED := $(VENV)/installed

.PHONY: demo test test-all bench format lint types clean

demo: $(INSTALLED)
	PATH="$(abspath $(BIN)):$$PATH" bash benchmarks/demo.sh

test: lint types
	$(BIN)/python -m pytest -m "not slow"

test-all: lint types
	$(BIN)/python -m pytest --durations=15

lint: $(INSTALLED)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

# mypy wants the installed names on real paths: a folder of links gives them
types: $(INSTALLED)
	mkdir -p build/types/stronglens
	ln -sfn ../../../engine ../../../training ../../../export build/types/stronglens/
	MYPYPATH=build/types $(BIN)/mypy -p stronglens

# on what the demo left
bench: $(INSTALLED)
	cd demo && ../$(BIN)/python ../benchmarks/throughput.py runs/resnext50 bundles/resnext50 catalog
	cd demo && ../$(BIN)/python ../benchmarks/throughput.py runs/lensfinding \
		bundles/lensfinding sky --count 64 --name throughput_lensfinding

format: $(INSTALLED)
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

# also after a file was added: the install must know every package
$(INSTALLED): setup.py pyproject.toml $(wildcard */__init__.py */*/__init__.py)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
