"""A look at Parquet files opens a few of them, and reads their first rows."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.servers import http_server
from tests.unit.data.samples import image_bytes

from clips_pipeline.data.limits import DEFAULT_LIMITS
from clips_pipeline.data.look.brief_parquet import MAX_FILES, BriefParquetSource
from clips_pipeline.data.look.first_samples import brief
from clips_pipeline.data.look.samples import look_at
from clips_pipeline.data.prepare.filters import SampleRules
from clips_pipeline.data.sources.parquet import ParquetConfig, ParquetSource
from clips_pipeline.data.sources.parquet_columns import ParquetColumns
from clips_pipeline.data.storage.files import Storage

FILES, ROWS = 9, 20
COLUMNS = ParquetColumns(image="image", web="web", synthetic="long", key="key")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("parquet")
    for file in range(FILES):
        numbers = range(file * ROWS, (file + 1) * ROWS)
        table = pa.table(
            {
                "key": [f"k{number:04d}" for number in numbers],
                "image": [{"bytes": image_bytes(number), "path": None} for number in numbers],
                "web": [f"web {number}" for number in numbers],
                "long": [f"Long {number}. More." for number in numbers],
            }
        )
        stream = io.BytesIO()
        pq.write_table(table, stream, row_group_size=5)
        (made / f"{file:02d}.parquet").write_bytes(stream.getvalue())
    return made


def config(address: str) -> ParquetConfig:
    return ParquetConfig(f"{address}/{{00..08}}.parquet", COLUMNS, "none", "none")


@pytest.mark.parametrize("remote", [False, True])
def test_the_first_rows_are_those_of_the_source(folder: Path, remote: bool) -> None:
    whole = look_at(ParquetSource(config(str(folder)), Storage()), "train", 8, SampleRules())
    with http_server(folder) as http:
        storage = brief(Storage(), 8, DEFAULT_LIMITS)
        source = BriefParquetSource(config(http.url if remote else str(folder)), storage, DEFAULT_LIMITS)
        assert look_at(source, "train", 8, SampleRules()) == whole
        opened = {path for method, path in http.requests if method == "GET"}
        assert len(opened) == (MAX_FILES if remote else 0)
    assert [sample.key for sample in whole] == [f"k{number:04d}" for number in range(8)]


def test_a_seed_draws_the_files(folder: Path) -> None:
    storage = brief(Storage(), 10, DEFAULT_LIMITS)
    source = BriefParquetSource(config(str(folder)), storage, DEFAULT_LIMITS, seed=1)
    seen = look_at(source, "train", 10, SampleRules(), seed=1)
    files = {int(sample.key[1:]) // ROWS for sample in seen}
    assert len(files) > 2
    assert files != set(range(len(files)))
