# `make demo` and `make test` are all a fresh machine needs; each makes .venv if there is none.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CODE := setup.py engine training export benchmarks tests
INSTALLED := $(VENV)/installed
BENCH := $(VENV)/installed_bench
DEMO := demo/bundles/lensfinding/manifest.json
MEASURE := $(BIN)/python benchmarks/
RESNEXT := demo/runs/resnext50 demo/bundles/resnext50
REAL := benchmarks/work/resolution/224_4
FINDER := demo/runs/lensfinding demo/bundles/lensfinding
KNOWS := benchmarks/work/finder

.PHONY: demo test test-all test-gpu bench bench-full bench-real format lint types clean

demo: $(INSTALLED)
	PATH="$(abspath $(BIN)):$$PATH" bash benchmarks/demo.sh

test: lint types
	$(BIN)/python -m pytest -rs -m "not slow and not gpu"

test-all: lint types
	$(BIN)/python -m pytest -rs -m "not gpu" --durations=15

# parity, throughput, overlap, NaN and memory; without a GPU each test says that it is skipped
test-gpu: $(INSTALLED)
	$(BIN)/python -m pytest -m gpu -rs -s tests/gpu

lint: $(INSTALLED)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

# mypy wants the installed names on real paths: a folder of links gives them
types: $(INSTALLED)
	mkdir -p build/types/stronglens
	ln -sfn ../../../engine ../../../training ../../../export build/types/stronglens/
	MYPYPATH=build/types $(BIN)/mypy -p stronglens

# bench: about twenty minutes on two cores, on what the demo left. bench-full: about an hour, with
# what starts slowly, more files and rounds, the simulator, and the net that resolution.py trained
# on real cutouts, where it has. Both make the README's table anew
bench bench-full: $(BENCH) $(DEMO)
	$(MEASURE)kernels.py
	$(MEASURE)feed.py $(FULL)
	$(MEASURE)backends.py $(RESNEXT) --name backends_resnext50
	$(MEASURE)growth.py $(FULL)
	$(MEASURE)startup.py $(FULL)
	$(MEASURE)end_to_end.py $(RESNEXT) demo/catalog --name end_to_end_resnext50 $(MORE)
	$(MEASURE)end_to_end.py $(FINDER) demo/sky --name end_to_end_lensfinding $(MORE)
	$(if $(FULL),$(MEASURE)backends.py $(FINDER) --name backends_lensfinding)
	$(if $(FULL),$(MEASURE)simulator.py)
	$(if $(FULL),$(MEASURE)resume.py)
	$(if $(FULL),$(MEASURE)plan.py)
	$(if $(and $(FULL),$(wildcard $(REAL)/bundle)),$(MAKE) bench-real)
	$(MEASURE)readme.py

bench-full: FULL := --full
bench-full: MORE := --full --rounds 5

bench-real: $(BENCH)
	$(if $(wildcard $(KNOWS)/bundle),,$(MEASURE)finder.py)
	$(MEASURE)backends.py $(KNOWS)/run $(KNOWS)/bundle --name backends_finder
	$(MEASURE)end_to_end.py $(KNOWS)/run $(KNOWS)/bundle $(KNOWS)/sky \
		--name end_to_end_finder --full --rounds 5
	$(MEASURE)backends.py $(REAL)/run $(REAL)/bundle --name backends_real
	$(MEASURE)end_to_end.py $(REAL)/run $(REAL)/bundle benchmarks/work/sub_nosub/test \
		--name end_to_end_real --full --rounds 5

format: $(INSTALLED)
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

# also after a file was added: the install must know every package
$(INSTALLED): setup.py pyproject.toml $(wildcard */__init__.py */*/__init__.py)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(BENCH): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@

$(DEMO):
	$(MAKE) demo

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
