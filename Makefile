# What people type. The work is done by cargo and scripts/; `make` alone prints the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# rustup puts cargo where only a new login shell looks; this is what its own profile script does.
CARGO_BIN := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin
ifeq ($(findstring :$(CARGO_BIN):,:$(PATH):),)
export PATH := $(CARGO_BIN):$(PATH)
endif
CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

.PHONY: run build build-debug build-static build-x86 build-arm64 build-zig dist lint test test-all test-flood test-static test-kernels \
	test-kernels-all kernel-budget demo benchmark clean help

# The version that programs, archives and images have: VERSION=1.2.3, otherwise the crate's.
ifeq ($(origin VERSION),command line)
export NETMON_VERSION := $(VERSION)
endif
VERSION := $(or $(NETMON_VERSION),$(shell sed -n 's/^version *= *"\(.*\)"/\1/p;T;q' Cargo.toml))

run: build ## Build and start the agent on this host, as root; ARGS="--interface eth0"
	scripts/as-root $(TARGET_DIR)/release/netmon $(ARGS)

build: ## Build for use: target/release/netmon; VERSION=1.2.3 sets the version that it reports
	@scripts/deps build
	$(CARGO) build --release --locked

build-debug: ## Build for debugging: target/debug/netmon
	@scripts/deps build
	$(CARGO) build --locked

build-static: ## Build programs that need no library: target/ARCH-unknown-linux-gnu/release
	@scripts/deps build
	scripts/cross $(shell uname -m) build --release --bins

build-x86: ## The same for x86_64, on any machine
	@scripts/deps $(if $(filter x86_64,$(shell uname -m)),build,cross)
	scripts/cross x86_64 build --release --bins

build-arm64: ## The same for arm64
	@scripts/deps $(if $(filter aarch64,$(shell uname -m)),build,cross)
	scripts/cross aarch64 build --release --bins

build-zig: ## Build with zig for ARCH=amd64 or ARCH=arm64, also named x86_64 and aarch64, without a C cross compiler: target/zig
	@scripts/deps zig
	scripts/cross --zig $(or $(ARCH),$(shell uname -m)) build --release --bins

dist: ## Make the release files in target/dist: archives for both architectures, their contents, checksums
	scripts/dist

.PHONY: dev-setup
dev-setup: ## Install what building, linting and testing need
	@scripts/deps dev

lint: ## Check the format, clippy with warnings denied, imports between rooms, and the dependencies
	@scripts/deps lint
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	scripts/rooms
	scripts/audit

test: ## Run all tests, as root where they need it; ARGS=name runs only those that match
	@scripts/deps test
	scripts/test $(ARGS)

test-all: ## The same with each long repetition in full, and the tests that take a minute each
	@scripts/deps test
	NETMON_TEST_FULL=1 scripts/test
	NETMON_TEST_FULL=1 scripts/test --test netmon -- --ignored names::start live::clients live::detection

test-integration: ## Run only the tests of a running agent, with real interfaces and traffic, as root; ARGS=name as above
	@scripts/deps test
	scripts/test live::$(ARGS)

.PHONY: setup-test-env test-e2e
setup-test-env: ## Prepare this machine for test-e2e: install, build, and try what the tests need of the kernel
	@scripts/test-env

test-e2e: setup-test-env ## Test two nodes with pods, agents and a Prometheus, as root, and print what was checked: four minutes
	@NETMON_TEST_ALL=1 scripts/test --test netmon e2e:: -- --include-ignored --nocapture --test-threads 1

test-flood: ## Run the endurance tests as root, floods of five minutes each, and print what they measure
	@scripts/deps test
	scripts/test live::flood -- --ignored --nocapture --test-threads 1

.PHONY: test-coverage coverage coverage-html
test-coverage: ## Run the unit tests and report the share of lines that they run; ARGS="--test netmon -- injected": other tests
	@scripts/deps build
	scripts/coverage report $(ARGS)

coverage: ## The same for the unit tests, and fail below the floor in scripts/coverage
	@scripts/deps build
	scripts/coverage check

coverage-html: ## The same as test-coverage, also as pages: target/coverage/html/index.html
	@scripts/deps build
	scripts/coverage html $(ARGS)

test-static: build-static ## Run the static programs in an empty directory, as root
	@scripts/deps static
	scripts/as-root scripts/test-static $(TARGET_DIR)/$(shell uname -m)-unknown-linux-gnu/release

test-kernels: ## Run the tests that CI runs in VMs with other kernels; ARGS="bookworm" selects one
	@scripts/deps kernels
	scripts/test-kernels $(ARGS)

test-kernels-all: ## The same with all kernels, on amd64 and arm64, and with more tests
	@scripts/deps kernels_all
	scripts/test-kernels --all $(ARGS)

kernel-budget: ## Write the instructions that the verifiers of these kernels look at as the new budget
	@scripts/deps kernels_all
	scripts/test-kernels --all --budget $(ARGS)

.PHONY: image test-image docker-build build-kind test-kind test-kind-integration
image: ## Build the image without Docker: target/image/netmon.tar; ARGS=arm64 selects the architecture
	scripts/image $(ARGS)

test-image: ## Build the image and run it as the manifests say, as root
	scripts/test-image

docker-build: ## Build the image with Docker
	@docker info >/dev/null 2>&1 || { echo "docker-build: no Docker daemon answers here; make image does not need one" >&2; exit 1; }
	docker build -f deploy/Dockerfile -t netmon:$(VERSION) --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) .

build-kind: ## Load the image into a kind cluster
	@scripts/kind load

test-kind: ## Start the agents in a kind cluster
	@scripts/kind test

test-kind-integration: ## Test the agents there, with traffic between pods
	@scripts/kind integration

demo: ## Show the flows of a small network of namespaces with real traffic
	@scripts/deps test
	$(CARGO) build --release --locked --example watch
	scripts/as-root scripts/demo

.PHONY: fuzz
fuzz: ## Fuzz for inputs that make it panic, hang or grow, ten minutes for each kind; ARGS="60 filter": 60 s, one kind
	@scripts/deps fuzz
	scripts/fuzz $(or $(ARGS),600)

benchmark: ## Measure the cost of a packet, a record and a flow, as root
	@scripts/deps bench
	$(CARGO) bench --locked --config 'target."cfg(all())".runner = ["scripts/as-root"]' $(ARGS)

.PHONY: benchmark-compare
BASE ?= main
benchmark-compare: ## Compare the benchmark with that of BASE=main, run in turn, as root; fails if a row is worse; ARGS="packet --rounds 5"
	@scripts/deps bench
	scripts/benchmark-compare $(BASE) $(ARGS)

# The programs are built as for use; the example alone has what only development needs.
LOAD = scripts/as-root $(TARGET_DIR)/release/examples/load
LOAD_FLAGS = $(if $(CONNECTIONS),--connections $(CONNECTIONS)) $(if $(DURATION),--duration $(DURATION))
.PHONY: load-tools test-load monitor-performance performance-report comprehensive-benchmark
load-tools:
	@scripts/deps load
	$(CARGO) build --release --locked
	$(CARGO) build --release --locked --example load

test-load: load-tools ## Load an agent between namespaces, and compare what it counted; CONNECTIONS=10000 in all, DURATION=10s
	$(LOAD) test $(LOAD_FLAGS) $(ARGS)

monitor-performance: load-tools ## Show what a running agent takes, live, until Ctrl-C or for DURATION=1m; ARGS="--interval 5s"
	$(LOAD) monitor $(if $(DURATION),--duration $(DURATION)) $(ARGS)

performance-report: load-tools ## The same load as test-load, with a report and its picture in results/
	$(LOAD) report $(LOAD_FLAGS) $(ARGS)

comprehensive-benchmark: load-tools ## A realistic mix with failures, compared and reported: results/benchmark-DATE.json, .md, .svg
	$(LOAD) benchmark $(LOAD_FLAGS) $(ARGS)

clean: ## Remove what was built
	$(CARGO) clean

help: ## Print this
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  make %-24s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
