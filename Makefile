# Every target is a line or two; what takes more is a script in tools/. Nothing needs root except installing packages.
#
# Compiled things live outside the clone, so that a second clone does not start from nothing.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MESETA_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/meseta
CARGO_TARGET_DIR ?= $(MESETA_CACHE)/target
export MESETA_CACHE CARGO_TARGET_DIR

.DEFAULT_GOAL := help
.PHONY: help deps build demo test check fix docker bench sim teeth fuzz faults chaos soak systemd qemu openapi bless

help: ## What can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile | expand -t 16

deps: ## Install what is missing, and compile RocksDB once for this machine
	@tools/deps.sh test >/dev/null

build: ## The programs, into ~/.cache/meseta/target/release ($CARGO_TARGET_DIR/release)
	@tools/build.sh

demo: ## A cluster, a job, a leader killed in the middle, and the log replayed (KEEP=1 keeps the cluster)
	@tools/demo.sh

test: ## Everything that CI runs
	@tools/test.sh test

check: ## The same without installing anything; never writes to the tree
	@tools/test.sh check

fix: ## Rewrite what tools can rewrite: lints, then format
	@. tools/env.sh; cargo clippy --fix --allow-dirty --allow-staged --workspace --all-targets; cargo fmt --all

docker: ## Containers of a real Docker Engine, which is installed if it is missing (as root; without a service of its own)
	@tools/docker.sh

bench: ## Measure, print a table, write bench.json (ARGS=--quick, ARGS=--only=NAME)
	@tools/bench.sh $(ARGS)

sim: ## Whole clusters simulated, faults and all: make sim SEEDS=1000, or one again: SEED=8471 [TRACE=1] [SHRINK=1] [BUG=name]
	@tools/sim.sh

teeth: ## Defects switched on one at a time: how many seeds the simulator takes to find each (SEEDS=1000)
	@TEETH=1 SEEDS=$(or $(SEEDS),1000) tools/sim.sh

fuzz: ## Every decoder and parser asked with broken inputs, each for SECONDS=60; what is found stays in proptests/fuzz/corpus ([TARGET=name])
	@. tools/env.sh; cargo run --profile sim -p fuzz -- $(or $(SECONDS),60) $(TARGET)

faults: ## Every single write and sync of the logs fails once, in each way that a disk has
	@. tools/env.sh; EVENT_LOG_FAULTS_ALL=1 cargo test -p event-log --features raft --test faults -- --nocapture

chaos: ## Real processes killed, frozen, cut off and without disk for ten minutes: SECONDS=600, SEED=n (as root); or one agent: MODE=agent KILLS=500
	@tools/deps.sh test >/dev/null; . tools/env.sh; cargo build --workspace --bins; \
	CHAOS_SECONDS=$(or $(SECONDS),600) $(if $(SEED),CHAOS_SEED=$(SEED)) $(if $(filter agent,$(MODE)),KILLS=$(or $(KILLS),500)) \
	cargo test -p proptests --test $(if $(filter agent,$(MODE)),agent_kills,chaos) -- --nocapture

soak: ## Hostile clients of every kind beside an ordinary framework for five minutes: SECONDS=300
	@tools/deps.sh test >/dev/null; . tools/env.sh; cargo build --workspace --bins; \
	SOAK_SECONDS=$(or $(SECONDS),300) cargo test -p proptests --test soak -- --nocapture

systemd: ## The units of packaging/systemd under a real systemd, in a throw-away layer over this machine's root (as root)
	@tools/systemd.sh

qemu: ## Control groups of both versions with all controllers, under a kernel of their own in an emulated machine (VERSIONS=second, ONLY=cluster)
	@tools/qemu.sh

openapi: ## Masters and agents asked what their OpenAPI descriptions say, and what they do not: nothing may be 500 (EXAMPLES=30)
	@tools/deps.sh test >/dev/null; . tools/env.sh; cargo build --workspace --bins; \
	EXAMPLES=$(or $(EXAMPLES),30) cargo test -p proptests --test openapi -- --nocapture

bless: ## Accept what the tests found as what they expect; read the diff before you commit it
	@. tools/env.sh; UPDATE_EXPECT=1 cargo test --workspace
