# Every command a developer or CI runs. `make help` lists them.
# Needs make, a C compiler, Rust and Python >= 3.11; the rest is installed here, in .venv and .tools.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# uv takes the Python that is there and fetches none.
export UV_PYTHON ?= python3
export UV_PYTHON_DOWNLOADS := never

UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .tools/bin/uv)
RUN := $(UV) run --no-sync
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)
DENY := $(shell cargo deny --version >/dev/null 2>&1 && echo yes)
PYTHON_CODE := python pipelines benches tests build_backend.py

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# pip's --target works where the system's Python is managed by the distribution, and where it cannot
# make virtual environments; a virtual environment works where there is no pip.
.tools/bin/uv:
	python3 -m pip install --quiet --target .tools uv \
	    || { rm -rf .tools; python3 -m venv .tools && .tools/bin/python -m pip install --quiet uv; } \
	    || { echo "uv is needed and could not be installed: install it, or give this Python pip or venv" >&2; exit 1; }

.PHONY: build
build: $(filter .tools/%,$(UV)) ## set up .venv, compile the module and the DuckDB extension
	$(UV) sync --quiet --all-extras --locked

.PHONY: demo
demo: build ## capture two real models and ask them questions (demo/)
	$(RUN) python pipelines/demo.py

.PHONY: format
format: build ## rewrite the sources in the house format
	cargo fmt --all
	$(RUN) ruff check --fix $(PYTHON_CODE)
	$(RUN) ruff format $(PYTHON_CODE)

.PHONY: lint
lint: build ## formats and lints, Rust and Python
	$(RUN) ruff format --check $(PYTHON_CODE)
	$(RUN) ruff check $(PYTHON_CODE)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
ifeq ($(DENY),yes)
	cargo deny check
endif

.PHONY: types
types: build ## mypy, and the compiled module against its stub
	$(RUN) mypy
	$(RUN) python -m mypy.stubtest residuum._residuum --mypy-config-file pyproject.toml

.PHONY: test-rust
test-rust: ## tests of the crates, no Python needed
ifeq ($(NEXTEST),yes)
	cargo nextest run --workspace --locked
	cargo test --workspace --locked --doc
else
	cargo test --workspace --locked
endif

.PHONY: test-python
test-python: build ## tests of the package
	$(RUN) pytest -q

.PHONY: test
test: lint types test-rust test-python ## all that CI runs, in its order

# Kernels of AVX2, also where there is more, so that small models train to the same weights.
SAME = ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2,STRICT

.PHONY: test-slow
test-slow: build ## the tests that take longer
	cargo test --workspace --locked -- --ignored
	$(SAME) $(RUN) pytest -q -m slow

.PHONY: bench
bench: build ## ours and the peers in one run; writes docs/benchmarks.md
	$(UV) sync --quiet --all-extras --locked --group peers
	$(RUN) python benches/all.py
