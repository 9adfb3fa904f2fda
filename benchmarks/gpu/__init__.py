"""Benchmark of the training step on a GPU: `python -m benchmarks.gpu --budget 450 --out FOLDER`; see `__main__`."""
