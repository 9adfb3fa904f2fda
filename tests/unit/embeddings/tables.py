"""Small tables of embeddings for tests."""

from pathlib import Path

import numpy as np

from clips_pipeline.embeddings.table import Kind, Rows, TableFacts, write_table

MODEL = "a" * 64
SIZE = 8


def unit_vectors(count: int, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """Return random rows with unit norm."""
    vectors = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_rows(count: int, *, seed: int = 0) -> Rows:
    """Return rows of which every third is a text."""
    kinds: list[Kind] = ["text" if number % 3 == 2 else "image" for number in range(count)]
    return Rows(
        [f"sample/{number:05d}" for number in range(count)],
        kinds,
        unit_vectors(count, seed=seed),
        [f"shard-{number % 2}.tar" if number % 5 else None for number in range(count)],
        [f"caption {number}" if kind == "text" else None for number, kind in enumerate(kinds)],
    )


def write(path: Path, rows: Rows, *, model: str = MODEL) -> Path:
    """Write a table and return its path."""
    with write_table(path, TableFacts(model, rows.vectors.shape[1], "made of")) as writer:
        writer.add(rows)
    return path
