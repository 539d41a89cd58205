# `make demo` and `make test` are all a fresh clone needs; they install into .venv first.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

# Without the current folder on the path, transformers cannot take ./kernels for another package.
export PYTHONSAFEPATH := 1
# Waiting OpenMP threads would spin on the cores that the other processes need.
export OMP_WAIT_POLICY := PASSIVE

# A .venv that has everything serves the demo too.
FULL := $(VENV)/installed-all-dev
DEMO := $(if $(wildcard $(FULL)),$(FULL),$(VENV)/installed-train-vision-draw)

.DEFAULT_GOAL := help
.PHONY: help demo test check lint format types floors coverage-models bench bench-compile bench-kernels bench-book bench-page bench-scale screenshots methods fuzz constraints clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(FULL): pyproject.toml setup.py constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[all,dev]'
	@touch $@

$(VENV)/installed-train-vision-draw: pyproject.toml setup.py constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[train,vision,draw]'
	@touch $@

demo: $(DEMO) ## compile and train the digits spec, compare, draw the graph
	$(BIN)/kdgraph train specs/digits.yaml --compare --seeds 5 -o runs/digits
	$(BIN)/kdgraph draw specs/digits.yaml -o runs/digits/graph.html
	@echo "The training graph as a picture: runs/digits/graph.html; of the runs: runs/digits/report.html"

test: export OMP_NUM_THREADS := 1
test: $(FULL) ## run every test that needs no GPU
	$(BIN)/pytest -m "not gpu" -n $(JOBS) --dist loadfile --ignore tests/kernels
	TRITON_INTERPRET=1 $(BIN)/pytest -m "not gpu and not aot" -n $(JOBS) tests/kernels
	$(BIN)/pytest -m aot -n $(JOBS) tests/kernels

check: lint types floors ## everything about the text of the code; changes nothing

lint: $(FULL) ## ruff's rules and format
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(FULL) ## mypy, strict
	$(BIN)/mypy

floors: $(FULL) ## imports run one way
	$(BIN)/lint-imports

coverage-models: $(FULL) ## capture every model family; writes docs/capture.md
	$(BIN)/python benchmarks/coverage_models.py --jobs $(JOBS)

# Nothing else runs beside a benchmark: threads wait as they do by default.
ALONE := env --unset=OMP_WAIT_POLICY

bench: $(FULL) ## steps of kdgraph and of torchdistill; writes benchmarks/results/
	$(ALONE) $(BIN)/python benchmarks/vs_torchdistill.py --output benchmarks/results
	$(BIN)/python benchmarks/performance_page.py

bench-compile: $(FULL) ## the time that kdgraph.compile takes; writes benchmarks/results/
	$(ALONE) $(BIN)/python benchmarks/compile_time.py --output benchmarks/results \
	    --chart docs/images/compile_time.svg
	$(BIN)/python benchmarks/performance_page.py

bench-kernels: $(FULL) ## the kernels, on a GPU; writes benchmarks/results/
	$(BIN)/python benchmarks/kernels.py --output benchmarks/results
	$(BIN)/python benchmarks/performance_page.py

bench-book: $(FULL) ## a book beside a live teacher and a cache of files; writes benchmarks/results/
	$(ALONE) $(BIN)/python benchmarks/book.py --output benchmarks/results
	$(BIN)/python benchmarks/books_page.py

bench-page: $(FULL) ## the page of a large graph in Chromium; writes benchmarks/results/
	$(ALONE) $(BIN)/python benchmarks/page_speed.py --output benchmarks/results

bench-scale: $(FULL) ## what embedding costs, and growth with processes; writes benchmarks/results/
	$(ALONE) $(BIN)/python benchmarks/scale.py --output benchmarks/results \
	    --chart docs/images/scaling.svg

screenshots: $(FULL) ## pictures of the page of a graph; writes docs/images/
	$(BIN)/python benchmarks/screenshots.py

methods: $(FULL) ## train every method over 3 seeds; writes docs/methods/results.md
	$(BIN)/python benchmarks/run_methods.py

# Seconds of all targets together; what is found is left in runs/fuzz.
FUZZ_SECONDS ?= 600
FUZZ_TARGETS := spec override weights book importer

fuzz: export OMP_NUM_THREADS := 1
fuzz: $(FULL) ## feed changed files to all that reads foreign ones, for FUZZ_SECONDS
	for target in $(FUZZ_TARGETS); do \
	    $(BIN)/python tests/fuzz/fuzz.py $$target $$(($(FUZZ_SECONDS) / $(words $(FUZZ_TARGETS)))) || exit 1; \
	done

format: $(FULL) ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: $(BIN)/python ## pin the newest versions that pyproject.toml allows
	$(BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[all,dev]'
	{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip list --format freeze --exclude-editable \
	    --exclude pip; } > constraints.new
	mv constraints.new constraints.txt

clean: ## remove what was built, not .venv and not runs/
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
