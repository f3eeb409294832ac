# The targets for people, hooks and CI. Each sets up what it needs; a second run reuses it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
export PYTHONDONTWRITEBYTECODE ?= 1

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CARGO ?= cargo
STAMPS := $(VENV)/.stamps
RUST_SOURCES := $(shell find rust Cargo.toml Cargo.lock -name target -prune -o -type f \( -name '*.rs' -o -name '*.toml' -o -name '*.lock' \) -print 2>/dev/null)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# ------------------------------------------------------------------ set-up

$(STAMPS)/tools: hack/need-tools
	@hack/need-tools $(PYTHON) $(CARGO)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/venv: requirements/dev.lock | $(STAMPS)/tools
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@echo "installing Python packages (requirements/dev.lock)"
	@hack/quietly $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@mkdir -p $(STAMPS) && touch $@

# Linked as what ships is, so that one build serves tests and wheel.
$(STAMPS)/build: $(STAMPS)/venv pyproject.toml hack/wheel hack/wheel.lock hack/link-wheel $(RUST_SOURCES)
	@echo "building the engine (release)"
	@PYTHON=$(PYTHON) hack/quietly hack/wheel target/wheel/built
	@hack/quietly hack/link-wheel target/wheel/built/ferrule-*.whl $(BIN)/python
	@touch $@

.PHONY: build
build: $(STAMPS)/build ## .venv/bin/ferrule, engine in release mode

WHEEL_SOURCES := $(RUST_SOURCES) $(shell find python hack/wheel hack/wheel.lock pyproject.toml README.md -type f -not -name '*.so' -not -name '*.pyc')

dist/.stamp: $(WHEEL_SOURCES) | $(STAMPS)/build
	@echo "packing the wheel (abi3, manylinux)"
	@PYTHON=$(PYTHON) hack/quietly hack/wheel dist
	@touch $@

.PHONY: wheel
wheel: dist/.stamp ## dist/ferrule-….whl, for any Python from 3.11 on and glibc from 2.28 on
	@ls dist/*.whl

.PHONY: net-tools
net-tools:
	@hack/need-net-tools

# ------------------------------------------------------------------ targets

KEEP ?=
.PHONY: demo
demo: build net-tools ## real connections through real rules, in its own namespaces (KEEP=1 keeps them)
	@hack/in-namespaces $(BIN)/python examples/demo.py $(if $(KEEP),--keep)

.PHONY: test
test: net-tools ## everything that must pass: Rust, Python, real kernel, fuzz targets briefly (ARGS='-k name' picks)
	@# Each compiles in a folder of its own: side by side they keep all cores busy.
	@$(MAKE) --jobs=3 wheel rust-tests fuzz-briefly
	@hack/in-namespaces $(BIN)/python -m pytest -q -p no:cacheprovider --numprocesses=auto --dist=worksteal $(ARGS)

.PHONY: rust-tests fuzz-briefly
# Without make's own flags: cargo would look for a jobserver that rustdoc cannot reach.
rust-tests: $(STAMPS)/tools
	@env -u MAKEFLAGS -u MFLAGS $(CARGO) test -q --workspace --exclude ferrule-bindings

fuzz-briefly: $(STAMPS)/tools
	@env -u MAKEFLAGS -u MFLAGS hack/fuzz 5

.PHONY: steady
steady: build ## unit and property tests, ten times in random order on a busy machine, once with half a core (ROUNDS=2)
	@CARGO=$(CARGO) hack/steady $(BIN)/python $(ARGS)

.PHONY: coverage
coverage: build net-tools ## which lines the tests of both languages run (ARGS='tests/unit' picks Python's)
	@$(BIN)/python hack/coverage $(or $(ARGS),tests/unit tests/process tests/netns)

.PHONY: mutants
mutants: $(STAMPS)/tools ## decisions of the engine that its unit tests do not notice being changed; half an hour
	@CARGO=$(CARGO) hack/mutants $(ARGS)

CONTROLPLANE := target/e2e/controlplane
.PHONY: e2e
e2e: build ## a real control plane, real proxies, real traffic (ARGS='-k name' picks)
	@hack/need-net-tools e2e
	@hack/build-controlplane $(CONTROLPLANE)
	@hack/need-helm >/dev/null
	@FERRULE_E2E=1 hack/in-namespaces $(BIN)/python -m pytest -q -p no:cacheprovider tests/e2e $(ARGS)

SECONDS_EACH ?= 60
.PHONY: fuzz
fuzz: $(STAMPS)/tools ## each fuzz target for a minute
	@hack/fuzz $(SECONDS_EACH)

.PHONY: lint
lint: build ## formats, types, layers, stubs, wording, tests, dependencies; warnings are errors
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy -q --workspace --all-targets -- -D warnings
	@# Docs of private items are for readers of the code: public ones may link to them.
	@RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc -q -p ferrule-engine --no-deps --document-private-items
	@$(BIN)/ruff format -q --check python tests bench examples
	@$(BIN)/ruff check -q python tests bench examples
	@$(BIN)/mypy
	@$(BIN)/python -m mypy.stubtest ferrule._engine
	@$(BIN)/lint-imports --no-logo --cache-dir $(VENV)/.import-linter | tail -1
	@$(BIN)/python hack/check-layers
	@$(BIN)/python hack/check-timed-tests
	@$(BIN)/python hack/check-words
	@$(BIN)/python hack/check-assertions
	@$(BIN)/python hack/check-commits
	@$(BIN)/python hack/audit

.PHONY: audit
audit: $(STAMPS)/tools ## licences, bans, sources and advisories of all dependencies
	@$(PYTHON) hack/audit

.PHONY: bench bench-full
bench: build net-tools ## engine, tools and daemons beside stock kube-proxy, five minutes (ARGS='--help')
	@hack/build-controlplane $(CONTROLPLANE)
	@hack/quietly $(CARGO) bench -q -p ferrule-bench --bench engine --no-run
	@CARGO=$(CARGO) hack/in-namespaces $(BIN)/python -m bench $(ARGS)

bench-full: build net-tools ## all sizes, an hour and a quarter; writes docs/performance.md (ARGS='--resume' goes on)
	@hack/build-controlplane $(CONTROLPLANE)
	@hack/quietly $(CARGO) bench -q -p ferrule-bench --bench engine --no-run
	@CARGO=$(CARGO) hack/in-namespaces $(BIN)/python -m bench --full $(ARGS)

IDLE_SECONDS ?= 600
.PHONY: soak
soak: build net-tools ## 10,000 endpoint changes, then ten idle minutes: CPU, memory, rules
	@hack/build-controlplane $(CONTROLPLANE)
	@hack/in-namespaces $(BIN)/python -m bench --shapes 1000x4 --subjects ferrule --rows start,flood,idle \
		--idle-seconds $(IDLE_SECONDS) --json target/bench/soak.json $(ARGS)

.PHONY: lock
lock: $(STAMPS)/venv ## renew the lock files
	@$(BIN)/pip-compile -q --upgrade --extra dev --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-options \
		--no-header --strip-extras --allow-unsafe -o requirements/dev.lock pyproject.toml
	@$(CARGO) update -q
	@$(BIN)/pip-compile -q --upgrade --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-options \
		--no-header --strip-extras --allow-unsafe --no-annotate -o requirements/tools.lock requirements/tools.in
	@$(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-options --no-header \
		--strip-extras --allow-unsafe --no-annotate -c requirements/dev.lock -o deploy/runtime.lock pyproject.toml

.PHONY: clean
clean: ## remove what was built
	@rm -rf $(VENV) target dist python/ferrule/*.so .mypy_cache .ruff_cache .hypothesis
