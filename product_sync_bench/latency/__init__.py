"""What the target's users feel of a load: ``python -m product_sync_bench.latency``, or `make bench-latency`."""
