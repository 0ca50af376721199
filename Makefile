# The two commands of the README are `make run` and `make test`. Both install what they need and can
# be run again at any time. `make bench` measures; `make modules` builds every guest.

CARGO ?= cargo
TARGET := wasm32-wasip2
# One profile for run, test and bench: wasmtime is built once, and what is tested is what is shipped.
HOST := --release --locked

# A guest is a folder below guests/ or examples/ whose package builds one component, named like it.
GUESTS := $(notdir $(patsubst %/Cargo.toml,%,$(wildcard guests/*/Cargo.toml)))
EXAMPLES := $(filter-out embedding,$(notdir $(patsubst %/Cargo.toml,%,$(wildcard examples/*/Cargo.toml))))
BUILT := $(or $(CARGO_TARGET_DIR),target)/$(TARGET)/guest

.DEFAULT_GOAL := help
.PHONY: help setup guests modules run test torture fuzz deny advisories lint bench

help:
	@echo "make run      build Docket and the demonstration guests, and run them"
	@echo "make test     build everything and run every test"
	@echo "make torture  the tests that kill, soak and draw cases, with thousands instead of some"
	@echo "make fuzz     each fuzz target for FUZZ_SECONDS (60), on the stable toolchain"
	@echo "make deny     licences, bans, duplicates and sources of all dependencies, by cargo-deny"
	@echo "make advisories  known weaknesses of dependencies; needs the network"
	@echo "make bench    measure, against floors measured in the same run"
	@echo "make lint     formatting and clippy"
	@echo "make modules  build every guest component, for tests by hand"

# Rust itself is the one thing that must be there; its target for guests is added here.
setup:
	@command -v $(CARGO) >/dev/null || { echo "Rust is missing: install it from https://rustup.rs and run this again"; exit 1; }
	@rustc --print target-libdir --target $(TARGET) | xargs test -d || { \
		echo "installing the Rust target $(TARGET)"; rustup target add $(TARGET); }

guests: setup
	@echo "building the demonstration guests"
	$(CARGO) build --locked --profile guest --target $(TARGET) $(foreach g,$(GUESTS),-p guest-$(subst _,-,$(g)))
	@for g in $(GUESTS); do cmp -s $(BUILT)/$$g.wasm guests/$$g.wasm || cp $(BUILT)/$$g.wasm guests/$$g.wasm; done

modules: guests
	@echo "building the examples and the test fixtures"
	$(CARGO) build --locked --profile guest --target $(TARGET) $(foreach e,$(EXAMPLES),-p example-$(subst _,-,$(e)))
	@for e in $(EXAMPLES); do cmp -s $(BUILT)/$$e.wasm examples/$$e/$$e.wasm || cp $(BUILT)/$$e.wasm examples/$$e/$$e.wasm; done
	$(CARGO) build --locked --profile guest --target $(TARGET) -p docket-fixtures --examples

run: guests
	$(CARGO) build $(HOST) -p docket-host
	@echo "docket-host run --module-dir guests/"
	@$(or $(CARGO_TARGET_DIR),target)/release/docket-host run --module-dir guests/

# Stores are tested on real servers: what this machine lacks of them is fetched, nothing is installed, and
# they end with the tests.
test: modules lint
	$(CARGO) build $(HOST) -p docket-host
	tests/servers.sh run $(CARGO) test $(HOST) --workspace --exclude docket-fixtures

torture: modules
	$(CARGO) build $(HOST) -p docket-host
	DOCKET_TORTURE=1 tests/servers.sh run $(CARGO) test $(HOST) -p docket-tests --test durable -- killing power
	DOCKET_TORTURE=1 $(CARGO) test $(HOST) -p docket-tests --test soak --test model --test strange --test piped --test batch_memory -- --nocapture --test-threads 1

# What is found is left in fuzz/found/TARGET-*: copy it to fuzz/corpus/TARGET, where every test run takes it.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= descriptors canonical docket_toml json_input component
fuzz: setup
	cd fuzz && CARGO_TARGET_DIR=$(abspath $(or $(CARGO_TARGET_DIR),target)) RUSTC_WRAPPER=$(CURDIR)/fuzz/rustc.sh $(CARGO) build --release --locked
	@mkdir -p fuzz/found
	@for t in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/found/corpus/$$t; \
		echo "fuzzing $$t for $(FUZZ_SECONDS) s"; \
		$(or $(CARGO_TARGET_DIR),target)/release/$$t -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=10 -rss_limit_mb=2048 \
			-verbosity=0 -print_final_stats=1 -artifact_prefix=fuzz/found/$$t- fuzz/found/corpus/$$t fuzz/corpus/$$t || exit 1; \
	done

# cargo-deny is built once, in the target directory: minutes.
DENY := $(or $(CARGO_TARGET_DIR),target)/deny
$(DENY)/bin/cargo-deny:
	@echo "building cargo-deny, which takes some minutes"
	$(CARGO) install cargo-deny --version 0.20.2 --locked --root $(DENY)

deny: $(DENY)/bin/cargo-deny
	$(DENY)/bin/cargo-deny check licenses bans sources

advisories: $(DENY)/bin/cargo-deny
	$(DENY)/bin/cargo-deny check advisories

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(HOST) --workspace --all-targets -- -D warnings

bench: modules
	$(CARGO) bench --locked -p docket-graph -p docket-store -p docket-tests --bench '*'
