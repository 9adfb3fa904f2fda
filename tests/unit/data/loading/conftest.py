"""Shards for the tests of the loader."""

from pathlib import Path

import pytest
from tests.unit.data.loading.loaders import COUNT, make_shards
from tests.unit.data.samples import record


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 46 samples in five files."""
    return make_shards(tmp_path_factory.mktemp("loader") / "shards", [record(number) for number in range(COUNT)])
