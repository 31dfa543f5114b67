# All that a developer or an operator does with a clone. `make help` lists it.
#
# Nothing is built twice: stamps in .venv remember what was installed and from which sources the
# extension was built. They compare times, so `touch pyproject.toml` asks pip again.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV := .venv
BIN := $(VENV)/bin
RUST_SOURCES := $(shell find rust -path rust/target -prune -o -type f \( -name '*.rs' -o -name 'Cargo.*' \) -print)
BENCH_MANIFESTS := $(wildcard bench/Cargo.toml)
RUST_MANIFESTS := rust/Cargo.toml $(BENCH_MANIFESTS)

# pyo3 reads the interpreter's version from here and not from whatever python3 is in PATH.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
# maturin refuses to choose when both a conda and a virtual environment are active.
MATURIN := env -u CONDA_PREFIX PIP_QUIET=1 VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin

ARGS ?=
BENCH_ARGS ?=
PYTEST_ARGS ?=
SECONDS ?= 60
KILLS ?= 50
MINUTES ?= 20
HEIRS ?= 16
SEED ?=

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: serve
serve: $(VENV)/.extension ## Build what is missing and run the server; ARGS='--export swap=4G ...'
	@exec $(BIN)/nbdswap serve $(ARGS)

.PHONY: test
test: test-rust test-python ## Build what is missing and run all tests (10 to 20 minutes)

.PHONY: test-rust
test-rust: $(VENV)/.dependencies ## Run the tests of the Rust core
	cargo test --quiet --manifest-path rust/Cargo.toml --features testing
	$(foreach manifest,$(BENCH_MANIFESTS),cargo test --quiet --manifest-path $(manifest);)

.PHONY: test-python
test-python: dev ## Run the tests of the server with the peers' clients and a guest; PYTEST_ARGS=...
	$(BIN)/pytest $(PYTEST_ARGS)

.PHONY: fuzz
fuzz: $(VENV)/.dependencies ## Send random requests to sessions for SECONDS=60
	FUZZ_SECONDS=$(SECONDS) cargo test --quiet --manifest-path rust/Cargo.toml --features testing \
		--lib session::tests::fuzz

.PHONY: churn
churn: $(VENV)/.dependencies ## Run a million steps over every zpool at every frame size
	CHURN_STEPS=1000000 cargo test --quiet --manifest-path rust/Cargo.toml --lib long_churn

.PHONY: crashes
crashes: $(VENV)/.dependencies ## Let a process die after each of its stores, and every HEIRS=16th heir too
	CRASH_EVERYWHERE=$(HEIRS) cargo test --quiet --manifest-path rust/Cargo.toml --features testing \
		--lib engine::tests::crash -- --nocapture

.PHONY: kills
kills: dev ## Kill servers KILLS=50 times under load and compare every page; SEED=...
	$(BIN)/python -m tests.kills --kills $(KILLS) $(if $(SEED),--seed $(SEED))

.PHONY: soak
soak: dev ## Load servers for MINUTES=20 while all happens to them that may, and print tables; SEED=...
	$(BIN)/python -m tests.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

.PHONY: guest
guest: dev ## Run the long forms of the guest test (20 minutes)
	$(BIN)/pytest tests/guest --long $(PYTEST_ARGS)

.PHONY: dev
dev: $(VENV)/.extension $(VENV)/.development ## Install the tools for development into .venv

.PHONY: lint
# The profile of the tests: clippy then finds the C libraries built, or leaves them to the tests.
lint: dev ## Check style, types and the extension's stub
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy -p tests.support -p tests.interop -p tests.guest -p tests.kills -p tests.soak -m tests.conftest
	$(BIN)/python -m mypy.stubtest nbdswap._core
	for manifest in $(RUST_MANIFESTS); do \
		cargo fmt --check --manifest-path "$$manifest"; \
		cargo clippy --quiet --manifest-path "$$manifest" --profile test --all-targets \
			--all-features -- -D warnings; \
	done

.PHONY: fmt
fmt: dev ## Format the sources
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	for manifest in $(RUST_MANIFESTS); do cargo fmt --manifest-path "$$manifest"; done

.PHONY: bench
bench: dev ## Run the benchmarks; BENCH_ARGS=...
	$(BIN)/python bench/run.py $(BENCH_ARGS)

.PHONY: bench-pools
bench-pools: dev ## Measure the zpools on pages in files or the sample; BENCH_ARGS=...
	$(BIN)/python bench/pools/measure.py $(BENCH_ARGS)

.PHONY: bench-store
bench-store: dev ## Measure what write-back costs a real disk, against fio; BENCH_ARGS=...
	$(BIN)/python bench/store/measure.py $(BENCH_ARGS)

.PHONY: bench-encryption
bench-encryption: $(VENV)/.dependencies ## Measure what encryption costs the store; BENCH_ARGS=ROUNDS
	cargo run --quiet --release --manifest-path rust/Cargo.toml --example seal_cost -- $(BENCH_ARGS)

.PHONY: clean
clean: ## Remove all that was built or fetched, .venv too
	rm -rf $(VENV) rust/target bench/target nbdswap/*.so tests/guest/cache
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find nbdswap tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# What must be there before anything can be built is checked once, when .venv is made.
$(VENV)/.dependencies: pyproject.toml
	@python=$$(scripts/find-tools); test -x $(BIN)/pip || "$$python" -m venv $(VENV)
	$(BIN)/python scripts/requirements.py build runtime >$(VENV)/runtime.txt
	$(BIN)/pip install --quiet --requirement $(VENV)/runtime.txt
	@touch $@

$(VENV)/.development: pyproject.toml $(VENV)/.dependencies
	$(BIN)/python scripts/requirements.py dev >$(VENV)/development.txt
	$(BIN)/pip install --quiet --requirement $(VENV)/development.txt
	@touch $@

$(VENV)/.extension: $(VENV)/.dependencies $(RUST_SOURCES) pyproject.toml
	$(MATURIN) develop --release --quiet
	@touch $@
