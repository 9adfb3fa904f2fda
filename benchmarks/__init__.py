"""Benchmarks: `python -m benchmarks.NAME [--json]` from the root of the checkout."""
