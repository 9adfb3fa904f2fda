"""The code of `docs/explanation/loader.md` that reads shards with webdataset alone runs as documented."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.samples import record, write_shard

DOCS = Path(__file__).parents[3] / "docs/explanation/loader.md"


# webdataset leaves closing to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_documented_code_reads_project_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.search(
        r"## Reading the shards with webdataset\n.*?```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL
    )
    assert block is not None
    lines = block.group(1)
    pattern = re.search(r'"(.*)/\{0+\.\.(\d+)\}\.tar"', lines)
    assert pattern is not None
    folder = tmp_path / pattern.group(1)
    folder.mkdir(parents=True)
    count = int(pattern.group(2)) + 1
    for number in range(count):
        write_shard(folder / f"{number:05d}.tar", [record(number, key="日本/" + "n" * 120)], "-")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(lines, found)  # noqa: S102 - our own documentation
    assert found["captions"] == [(f"web {number}", f"Long {number}. And more.") for number in range(count)]
    assert found["image"].size == (24, 20)


PREPARE = """
import sys
from pathlib import Path
from tests.unit.data.samples import source
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.shards.tar_file import TarFile
prepare(source(4), Path(sys.argv[1]))
assert TarFile(Path(sys.argv[1], "train", "00000.tar")).read(0).text == b"web 0"
assert not {"torch", "webdataset"} & set(sys.modules)
import torch, webdataset
assert issubclass(webdataset.WebLoader, webdataset.DataPipeline)
assert issubclass(webdataset.DataPipeline, torch.utils.data.IterableDataset)
"""


def test_prepare_does_not_import_torch_and_leaves_webdataset_complete(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", PREPARE, str(tmp_path / "shards")], check=True, cwd=DOCS.parents[2])
