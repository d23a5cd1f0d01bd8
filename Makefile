# The commands of this repository; `make` lists them. What they install and where: tests/deps.sh.
#
# TIDEMILL_CACHE  where downloads and built tools are kept (default: .cache), so that clones can share them
# BROKER          host:port of a Kafka broker for `make demo`, instead of the embedded one
# DEMO_ARGS       further options of `tidemill demo`

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export TIDEMILL_CACHE := $(abspath $(or $(TIDEMILL_CACHE),.cache))
# The CMake of the cache, if one was needed, and cargo where rustup puts it.
export PATH := $(TIDEMILL_CACHE)/bin:$(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

TARGET := $(or $(CARGO_TARGET_DIR),target)
# One set of features and one profile for the program, the demo and the tests: dependencies are compiled once.
CARGO_FLAGS := --workspace --features lightgbm --locked

.PHONY: help
help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | column -t -s '|' 2>/dev/null || \
		sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1: \2/p' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: build ## the whole path on generated transactions, in one process; BROKER=host:port for a real broker
	$(TARGET)/debug/tidemill demo $(if $(BROKER),--broker $(BROKER)) $(DEMO_ARGS)

.PHONY: test
test: deps-test ## all tests, beside a real Kafka broker, a real S3 server and a real MLflow server
	cargo build $(CARGO_FLAGS)
	cargo test $(CARGO_FLAGS) --no-run
	tests/with-servers.sh cargo test $(CARGO_FLAGS)
	tests/python-checks.sh

.PHONY: test-airflow
test-airflow: build deps-test ## the DAGs in a real Airflow, with the program that was built, beside a real MLflow server
	tests/with-servers.sh tests/airflow.sh

.PHONY: build
build: deps ## the program, with training: target/debug/tidemill
	cargo build $(CARGO_FLAGS)

.PHONY: servers-check
servers-check: ## check the scripts that start and stop the test servers
	tests/servers-check.sh

.PHONY: bench
bench: deps-test ## the benchmarks, optimised, beside a real broker
	cargo bench $(CARGO_FLAGS) --no-run
	tests/with-servers.sh cargo bench $(CARGO_FLAGS) --no-fail-fast

.PHONY: lint
lint: deps ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo lint

.PHONY: fmt
fmt: ## format the sources
	cargo fmt --all

.PHONY: deps
deps: ## install what building needs (system packages as root, otherwise a list)
	@tests/deps.sh build

.PHONY: deps-test
deps-test: ## install what testing needs beyond that: broker, S3 server, MLflow server
	@tests/deps.sh test

.PHONY: clean-cache
clean-cache: ## stop the servers and delete the downloads
	tests/kafka.sh stop --purge
	tests/s3.sh stop --purge
	tests/mlflow.sh stop --purge
	rm -rf "$(TIDEMILL_CACHE)" .cache
