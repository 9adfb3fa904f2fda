"""Fixtures shared by all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clips_pipeline.io import redact

# Two cores, and the tests start processes of their own: one thread each beats spinning threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def no_remembered_secrets() -> Iterator[None]:
    """Forget the credentials of a test, so that their words are not redacted in messages of the next one."""
    yield
    redact.forget()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """Real photos, long texts, vocabularies and golden vectors, which live beside the checkout."""
    folder = REPOSITORY.parent / "shared" / "fixtures"
    if not folder.is_dir():
        pytest.skip("shared/fixtures is not beside this checkout; CI has it")
    return folder


@pytest.fixture(scope="session")
def golden_dir(fixtures_dir: Path) -> Path:
    """Numbers computed with the authors' JAX code."""
    return fixtures_dir / "golden"
