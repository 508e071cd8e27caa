# Two commands matter: `make demo` shows a cluster at work, `make test` proves it.
# Each target sets up what it needs; nothing is assumed but make, a shell and a Rust toolchain.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# One profile for everything, so that each dependency is compiled once.
PROFILE := --release
BIN := target/release

# RocksDB is C++ and takes a quarter of an hour. It is compiled once for each version and
# compiler and kept outside the checkout; delete the folder to build it anew.
CACHE ?= $(or $(BALLAST_CACHE),$(if $(HOME),$(HOME)/.cache/ballast,/var/cache/ballast))
ROCKSDB_VERSION := $(shell sed -n '/^name = "librocksdb-sys"/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
ROCKSDB_PREFIX := $(CACHE)/rocksdb-$(ROCKSDB_VERSION)-$(shell uname -m)
# Asked anew for each target, since `packages` may install the compiler.
ROCKSDB_DIR = $(ROCKSDB_PREFIX)-$(shell c++ -dumpversion 2>/dev/null || echo cxx)
export ROCKSDB_LIB_DIR = $(ROCKSDB_DIR)
export ROCKSDB_STATIC := 1

.PHONY: help
help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

.PHONY: packages
packages:
	@scripts/setup.sh

# A target of its own, because make reads all lines of one before it runs the first.
.PHONY: setup
setup: packages ## Install what building needs (Debian packages) and compile RocksDB once
	@scripts/rocksdb.sh "$(ROCKSDB_DIR)"

.PHONY: build
build: setup ## Build ballastd and ballastctl into target/release
	$(CARGO) build $(PROFILE) --workspace --bins

.PHONY: demo
demo: build ## Three nodes, a shop, a kill -9: what each visitor saw. DEMO=once runs through and exits
	@$(BIN)/ballast-demo $(if $(filter once,$(DEMO)),--once,)

.PHONY: test
test: setup lint ## Format, lints, unit, property, integration and doc tests, architecture and proto checks
	$(CARGO) build $(PROFILE) --workspace --bins
	$(CARGO) test $(PROFILE) --workspace --no-fail-fast
	$(CARGO) test $(PROFILE) -p ballast-sim --features turmoil

.PHONY: lint
lint: setup ## Formatting, the arrows between crates, clippy
	$(CARGO) fmt --all --check
	@scripts/arrows.sh
	$(CARGO) clippy $(PROFILE) --workspace --all-targets --features ballast-sim/turmoil -- -D warnings

.PHONY: docs
docs: setup ## API documentation and the generated reference pages
	$(CARGO) run $(PROFILE) -q -p ballast-core --example generate_reference
	$(CARGO) run $(PROFILE) -q -p ballastctl --example generate_cli_reference
	$(CARGO) doc $(PROFILE) --workspace --no-deps

.PHONY: soak
soak: build ## Ten minutes each of faults and of small writes with purges on one core; twenty crashes of all nodes at once
	BALLAST_SOAK_SECONDS=$${BALLAST_SOAK_SECONDS:-600} $(CARGO) test $(PROFILE) -p ballastd --test any_node -- --nocapture
	$(CARGO) run $(PROFILE) -p ballast-raft --example churn -- $${BALLAST_SOAK_SECONDS:-600}
	BALLAST_CRASH_ROUNDS=$${BALLAST_CRASH_ROUNDS:-20} $(CARGO) test $(PROFILE) -p ballastd --test crash -- --nocapture

.PHONY: model
model: ## Search the lease protocol's model with large bounds, up to an hour and 8 GB; MODEL=quick takes seconds
	$(CARGO) build $(PROFILE) -p ballast-lease-model
	@$(BIN)/lease-model $(if $(filter quick,$(MODEL)),,--long)

.PHONY: sim
sim: setup ## Whole clusters in simulated time, SEEDS (2000) of them, every kind of fault; SEED=n repeats one
	$(CARGO) build $(PROFILE) -p ballast-sim --features turmoil
	$(BIN)/sim $(if $(SEED),replay $(SEED),run --seeds $(or $(SEEDS),2000) --from $(or $(FROM),1))

.PHONY: sim-selftest
sim-selftest: setup ## Plants each bug of the simulated layers in turn; fails unless a seed finds it
	$(CARGO) build $(PROFILE) -p ballast-sim --features planted
	$(BIN)/sim selftest

.PHONY: chaos
chaos: build ## Ten minutes of faults of all kinds on five nodes; what was seen and a verdict for each promise in target/chaos
	exec $(BIN)/jepsen run --seconds 600

.PHONY: chaos-long
chaos-long: build ## The same for CHAOS_MINUTES (120), in runs of ten, and docs/evidence.md anew from them
	rm -rf target/chaos/long
	exec $(BIN)/jepsen run --seconds 600 --runs $$(( ($${CHAOS_MINUTES:-120} + 9) / 10 )) --output target/chaos/long --evidence docs/evidence.md

.PHONY: chaos-compose
chaos-compose: build ## CHAOS_SECONDS (600) of faults on the docker-compose cluster as it is shipped, from nothing to nothing
	@deploy/compose-chaos.sh $(BIN) --seconds $${CHAOS_SECONDS:-600}

.PHONY: chaos-selftest
chaos-selftest: build ## Plants each bug in turn; fails unless the checker that is meant to finds it
	$(CARGO) build $(PROFILE) -p ballastd --features planted --bin ballastd-planted
	exec $(BIN)/jepsen selftest

.PHONY: bench
bench: build ## Ballast beside HAProxy and nginx, interleaved; writes bench/results/latest.json
	@scripts/setup.sh bench
	@bench/run.sh

.PHONY: bench-failover
bench-failover: build ## Ballast and keepalived under each fault: outage and time with two owners; writes bench/results/failover.json
	@scripts/setup.sh bench
	$(BIN)/ballast-failover run --output bench/results/failover.json

.PHONY: bench-failover-soak
bench-failover-soak: build ## A thousand random faults on Ballast: never two owners, an owner again within two leases
	@scripts/setup.sh bench
	$(BIN)/ballast-failover soak

.PHONY: bench-failover-voters
bench-failover-voters: build ## All voters killed and replaced one by one while a VIP is held: nobody notices
	@scripts/setup.sh bench
	$(BIN)/ballast-failover voters

.PHONY: bench-failover-many
bench-failover-many: build ## Nine nodes and two hundred VIPs: what leases cost at rest; the death of a node moves its VIPs only
	@scripts/setup.sh bench
	$(BIN)/ballast-failover many

.PHONY: bench-failover-moves
bench-failover-moves: build ## Fifty planned moves under 2,000 requests a second on fresh and as many on kept connections: none fails
	@scripts/setup.sh bench
	$(BIN)/ballast-failover moves

.PHONY: image
image: build ## The container image ballast:local, from what is built; makes its base itself where no registry answers
	@scripts/setup.sh compose
	@deploy/image.sh $(BIN)

.PHONY: deb
deb: build ## A Debian package: programs, unit, manual pages, completions
	@deploy/deb.sh $(BIN)

.PHONY: compose-demo
compose-demo: build ## The docker-compose cluster from nothing to nothing: nodes killed, paused, cut off under a client
	@deploy/compose-demo.sh $(BIN)

.PHONY: compose-faults
compose-faults: build ## The same for each container ROUNDS (20) times each: how long a client heard nobody, what it kept
	@deploy/compose-faults.sh $(BIN)

.PHONY: clean
clean: ## Remove build results of this checkout (not the RocksDB cache)
	$(CARGO) clean
