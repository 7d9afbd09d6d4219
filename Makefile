# Shoal: build, test, try. `make help` lists the targets.
SHELL := /bin/bash
BUILD := build/release
JOBS ?= $(shell nproc)
TEST_JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help deps build install test demo format lint asan tsan fuzz bench cluster-100 small-files \
  simulate clean

help:  ## List these targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

deps:  ## Install the Debian 12 packages that are missing (as root or with sudo)
	@tools/install-deps.sh

build: deps  ## Build build/release/shoal and libshoal.so
	@cmake --preset release >/dev/null
	@ninja -C $(BUILD) -j $(JOBS) shoal libshoal
	@echo "built $(BUILD)/shoal and $(BUILD)/libshoal.so"

install: build  ## Install the program, libshoal and its headers (PREFIX=/usr/local, DESTDIR=)
	@cmake --install $(BUILD) --component program --prefix $(or $(PREFIX),/usr/local)
	@cmake --install $(BUILD) --component library --prefix $(or $(PREFIX),/usr/local)
	@if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then ldconfig; fi

test: deps  ## Build everything and run every test
	@tools/install-conformance.sh
	@cmake --preset release >/dev/null
	@ninja -C $(BUILD) -j $(JOBS)
	@ctest --test-dir $(BUILD) --output-on-failure -j $(TEST_JOBS)

demo: build  ## Mount a directory, write, read, re-read, unmount; print what it cost
	@tools/demo.sh $(BUILD)/shoal

format:  ## Lay out the sources with clang-format
	@tools/check_format.sh --fix

lint: deps  ## Run clang-tidy on changed files (ALL=1: on all)
	@cmake --preset dev >/dev/null
	@ninja -C build/dev shoal_wire_messages >/dev/null  # its header is made by the build
	@tools/lint.sh $(if $(ALL),--all)

asan: deps  ## Run the tests with address and undefined-behaviour sanitizers
	@cmake --preset asan >/dev/null
	@ninja -C build/asan -j $(JOBS)
	@ctest --test-dir build/asan --output-on-failure -j $(TEST_JOBS)

tsan: deps  ## Run the tests with the thread sanitizer
	@cmake --preset tsan >/dev/null
	@ninja -C build/tsan -j $(JOBS)
	@ctest --test-dir build/tsan --output-on-failure -j $(TEST_JOBS)

fuzz: deps  ## Fuzz every parser for SECONDS_EACH (default 30)
	@cmake --preset fuzz >/dev/null
	@ninja -C build/fuzz -j $(JOBS)
	@tools/fuzz.sh build/fuzz $(or $(SECONDS_EACH),30)

bench: build  ## Measure against the ceilings of this machine (ARGS="size=256MiB")
	@$(BUILD)/shoal bench $(or $(SCENARIO),one-node) $(ARGS)

cluster-100: build  ## Run 100 nodes in network namespaces (as root)
	@$(BUILD)/shoal bench cluster --nodes 100 strict=yes $(ARGS)

small-files: build  ## A directory with a million small files, on two nodes (FILES=1000000)
	@SMALL_FILES=$(or $(FILES),1000000) TEST_DIRECTORY=$(or $(DIR),/var/tmp) \
	  python3 tests/system/small_files_test.py

simulate: build  ## Drive the real code through simulated faults (ARGS="--seed 7")
	@$(BUILD)/shoal simulate $(or $(SCENARIO),one-node) $(ARGS)

clean:  ## Remove build/
	@rm -rf build
