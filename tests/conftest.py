"""Fixtures shared by all tests."""

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.kedro_project import copy_tracked

from clips_pipeline.data.shards import unexpected
from clips_pipeline.io import redact

# Two cores, and the tests start processes of their own: one thread each beats spinning threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

# Each warning each time: the first test to cause one would fail, and the others would pass.
torch.set_warn_always(True)


def pytest_runtest_setup() -> None:
    """Allow `float(loss)` in tests, of which newer releases of torch warn."""
    message = "Converting a tensor with requires_grad=True to a scalar"
    warnings.filterwarnings("ignore", message, UserWarning, module=r"tests\.")


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


@pytest.fixture(scope="module")
def module_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the tests of one file, deleted after them unless one failed: a trained project takes a gigabyte."""
    before = request.session.testsfailed
    folder = tmp_path_factory.mktemp("module")
    yield folder
    if request.session.testsfailed == before:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def project(repository: Path, module_folder: Path) -> Path:
    """Only the tracked files, as in a clone."""
    return copy_tracked(repository, module_folder / "project")


@pytest.fixture(autouse=True)
def _unexpected_errors_fail(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw costs a run one sample; in a test it is a bug, and must not pass as a skip.

    Mark a test with `unexpected` if it wants the skip. Loader workers inherit this, other processes do not.
    """
    if "unexpected" not in request.keywords:
        monkeypatch.setattr(unexpected, "log_once", _fail)


def _fail(error: Exception) -> None:
    raise AssertionError("an error that nobody foresaw became a skip") from error
