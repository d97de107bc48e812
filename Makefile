# Everything a person or CI runs. `make run` shows larder at work; `make test` is the whole truth.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
BROWSER_DIR := target/browser

# What libFuzzer needs in the code to see which ways an input takes; stable Rust has it.
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares
FUZZ_DIR := target/fuzz
TARGET ?= directives
TIME ?= 60

.PHONY: help run build test test-rust test-browser fuzz lint fmt bench bench-load setup setup-browser setup-peers

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

run: build ## Build, then start the demo app with larder in front
	./target/release/larder demo

build: ## Build the optimised binary
	$(CARGO) build --release

test: setup test-rust test-browser ## Install what the tests need and run all of them

test-rust: ## Run the tests of the crate (needs redis-server)
	$(CARGO) test --lib --bins --tests
	$(CARGO) test --doc

test-browser: setup-browser ## Load the demo page in a real browser, direct and through larder
	@if command -v chromium >/dev/null && [ -d $(BROWSER_DIR)/node_modules/playwright-core ]; then \
		NODE_PATH=$(CURDIR)/$(BROWSER_DIR)/node_modules $(CARGO) test --test proxy browser:: -- --ignored --nocapture; \
	elif [ -n "$${CI:-}" ]; then \
		echo "the browser test cannot run: chromium, node or playwright-core is missing" >&2; exit 1; \
	else \
		echo "SKIPPED: the browser test needs chromium, node and playwright-core, and they could not be installed"; \
	fi

fuzz: ## Look for inputs that break a parser: TARGET=directives TIME=60 (seconds)
	@host=$$(rustc -vV | sed -n 's/^host: //p'); \
	RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) build --manifest-path tests/fuzz/guided/Cargo.toml --target-dir $(FUZZ_DIR) --target $$host; \
	mkdir -p $(FUZZ_DIR)/corpus/$(TARGET) tests/fuzz/corpus/$(TARGET); \
	LARDER_FUZZ_TARGET=$(TARGET) LARDER_FUZZ_SEEDS=$(FUZZ_DIR)/corpus/$(TARGET) $(FUZZ_DIR)/$$host/debug/guided \
		$(FUZZ_DIR)/corpus/$(TARGET) tests/fuzz/corpus/$(TARGET) -max_total_time=$(TIME) -max_len=4096 -timeout=10 \
		-rss_limit_mb=2048 -artifact_prefix=$(FUZZ_DIR)/found-$(TARGET)- -print_final_stats=1

lint: ## Formatting and clippy, warnings are errors; cargo deny where it is installed
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check; else echo "cargo deny is not installed: skipped"; fi

fmt: ## Format the code
	$(CARGO) fmt --all

bench: ## Cost of a hit, step by step, and beside the peers that are installed; prints tables
	$(CARGO) bench --bench hot_path
	$(CARGO) bench --bench load -- peers

bench-load: ## 1,000 people for 30 s, then the same without pauses; prints tables
	$(CARGO) bench --bench load -- people --check
	$(CARGO) bench --bench load -- closed --check

setup-peers: ## Install what `make bench` measures larder beside (Debian)
	$(SUDO) apt-get update -q && $(SUDO) apt-get install -y -q --no-install-recommends \
		nginx libnginx-mod-http-lua lua-nginx-redis varnish haproxy redis-server wrk nghttp2-client

setup: ## Install redis-server and PostgreSQL where they are missing
	@missing=""; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	command -v curl >/dev/null || missing="$$missing curl"; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || missing="$$missing postgresql"; \
	if [ -n "$$missing" ]; then \
		$(SUDO) apt-get update -q && $(SUDO) apt-get install -y -q --no-install-recommends $$missing; \
	fi

setup-browser: ## Install chromium, node and playwright-core where they are missing
	@missing=""; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	command -v node >/dev/null || missing="$$missing nodejs"; \
	command -v npm >/dev/null || missing="$$missing npm"; \
	if [ -n "$$missing" ]; then \
		$(SUDO) apt-get update -q && $(SUDO) apt-get install -y -q --no-install-recommends $$missing || echo "could not install$$missing"; \
	fi
	@mkdir -p $(BROWSER_DIR)
	@if [ ! -d $(BROWSER_DIR)/node_modules/playwright-core ] && command -v npm >/dev/null; then \
		cp tests/browser/package.json $(BROWSER_DIR)/ && npm install --prefix $(BROWSER_DIR) --no-audit --no-fund --ignore-scripts --loglevel=error || echo "could not install playwright-core"; \
	fi
