"""Prepared data depends on parameters, data and format versions, not on source files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

RUN = """
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from clips_pipeline.pipelines.prepare import nodes

folder = Path(sys.argv[1])
scenes = {"train": 8, "validation": 2, "test": 2, "image_size": 32, "samples_per_shard": 4}
parameters = {"source": {"scenes": scenes}, "tokenizer": {"vocabulary_size": 300}, "processes": 1}
remote = SimpleNamespace(storage=None)
names = {"caption_tables": "tables", "shards": "shards", "tokenizer": "tokenizer", "data_health": "health.html"}
paths = {name: folder / file for name, file in names.items()}
shards = nodes.prepare_shards(parameters, remote, paths)
tokenizer = nodes.make_tokenizer(parameters, shards, None, paths)
nodes.report_health(parameters, {}, shards, tokenizer, None, paths)
files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
print(json.dumps({str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}))
"""


def prepared(sources: Path, folder: Path) -> dict[str, int]:
    environment = {**os.environ, "PYTHONPATH": str(sources)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder)], check=True, capture_output=True, text=True, env=environment
    )
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_source_edits_make_nothing_again_and_a_raised_version_does(repository: Path, tmp_path: Path) -> None:
    sources = shutil.copytree(
        repository / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    folder = tmp_path / "data"
    folder.mkdir()
    first = prepared(sources, folder)
    assert {"shards/index.json", "health.html"} <= set(first)
    for file in sources.rglob("*"):
        if file.suffix in (".py", ".css"):
            file.write_text(f"{file.read_text()}\n{'# a comment' if file.suffix == '.py' else '/* a comment */'}\n")
    assert prepared(sources, folder) == first
    formats = sources / "clips_pipeline" / "formats.py"
    for name, file in (
        ("DATA_HEALTH", "health.html"),
        ("TOKENIZER", "tokenizer/vocab.txt"),
        ("SHARDS", "shards/index.json"),
    ):
        formats.write_text(formats.read_text().replace(f"\n{name} = ", f"\n{name} = 1"))
        again = prepared(sources, folder)
        assert again[file] > first[file], name
