"""Thousands of damaged and hostile shards: no crash, no hang, no bad sample accepted, and correct counts.

Every shard is prepared in place and rewritten, and then trained on. Expected results come from independent code: Pillow
at full scale, `tarfile` and plain Python.
"""

import io
import json
import re
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.drills.mutations import count_samples, mutated_shard
from tests.unit.data.samples import record, write_shard

from clips_pipeline.data.images.transforms import ImageConfig
from clips_pipeline.data.loading.loader import train_loader
from clips_pipeline.data.prepare.statistics import load_statistics
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.data.shards.reader import ShardSet, eval_samples
from clips_pipeline.data.shards.records import Record
from clips_pipeline.text.caption_rows import CaptionConfig, CaptionReader
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

pytestmark = pytest.mark.slow

COUNT = 2_000
"""Number of shards. Another first seed gives other shards."""
FIRST = 0
LIMIT_S = 600

PREPARE = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("error")
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.sources.img2dataset import Img2datasetConfig, Img2datasetSource
from clips_pipeline.data.storage.files import Storage
folder, out, rewrite = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "rewrite"
count = int(sys.argv[4])
train = f"{folder}/{{{0:05d}..{count - 1:05d}}}.tar"
config = Img2datasetConfig(train, f"{folder}/good.tar", f"{folder}/fine.tar", rewrite=rewrite)
if __name__ == "__main__":
    prepare(Img2datasetSource(config, Storage()), out, processes=2, max_skipped_fraction=1.0, samples_per_shard=1_000)
"""


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    for number in range(COUNT):
        (folder / f"{number:05d}.tar").write_bytes(mutated_shard(FIRST + number))
    for name, first in (("good", 100), ("fine", 200)):
        write_shard(folder / f"{name}.tar", [record(first)], "-")
    return folder


@pytest.fixture(scope="module", params=["in place", "rewrite"])
def prepared(request: pytest.FixtureRequest, damaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "shards"
    # In a separate process, so that a hang ends and a crash of the interpreter is detected.
    command = [sys.executable, "-c", PREPARE, str(damaged), str(out), request.param, str(COUNT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def _accepted(folder: Path) -> list[Record]:
    shards = ShardSet(folder, "train", max_open_files=4)
    found = [shards.read(shard, row) for shard, count in enumerate(shards.samples) for row in range(count)]
    shards.close()
    return found


def test_accepted_samples_pass_independent_checks(prepared: Path) -> None:
    found = _accepted(prepared)
    assert len(found) > COUNT
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for sample in found:
            assert re.fullmatch(r"[^\x00-\x1f\x7f./\\]+(/[^\x00-\x1f\x7f./\\]+)*", sample.key)
            assert ".." not in sample.key.split("/")
            for text in (sample.web_caption, sample.synthetic_caption, *sample.captions):
                assert text.encode().decode() == text
            assert sample.web_caption.strip()
            assert sample.synthetic_caption.strip()
            with Image.open(io.BytesIO(sample.image)) as image:
                assert image.width * image.height < 10_000
                image.convert("RGBA").load()


def test_keys_are_unique(prepared: Path) -> None:
    keys = Counter(sample.key for sample in _accepted(prepared))
    assert max(keys.values()) == 1


def test_counts_add_up(prepared: Path, damaged: Path) -> None:
    """Every visible row of a tar is kept or counted under one reason; a shard that is not a tar counts once."""
    made = count_samples(damaged, COUNT)
    index, statistics = load_index(prepared), load_statistics(prepared)
    train = statistics.splits["train"]
    assert train.kept == index.split_samples("train") == len(_accepted(prepared))
    # A truncated tar counts once more than its rows, for the samples that cannot be seen.
    truncated = train.skipped.get("truncated_shard", 0)
    assert train.kept + sum(train.skipped.values()) - truncated + sum(train.filtered.values()) == made
    assert train.skipped == index.skips["train"]


def test_training_reads_full_batches_of_good_samples(prepared: Path) -> None:
    pieces = ["[PAD]", "[BOS]", "[EOS]", "[UNK]", "[CLS]", "web", "long", *"0123456789"]
    reader = CaptionReader(CaptionConfig(), WordPieceTokenizer(pieces), seed=1)
    loader = train_loader(prepared, "train", reader, ImageConfig(size=16), global_batch_size=64, workers=1, seed=1)
    seen: list[str] = []
    for batch in loader:
        assert len(batch) == 64
        assert batch.skipped == {}
        seen += batch.keys
    assert len(seen) == len(set(seen))


def test_reasons_are_valid_json_and_harmless(prepared: Path) -> None:
    text = (prepared / "statistics.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    assert {example["reason"] for example in found["examples"]} >= {"undecodable_image", "not_utf8", "bad_record"}
    assert all(len(example["detail"]) < 1_000 for example in found["examples"])
    assert list(eval_samples(prepared, "test")) == [record(200)]
    # Nothing was written outside the folder, whatever a name in a tar says.
    assert not list(prepared.parent.parent.rglob("outside*"))
    assert sorted(p.name for p in prepared.parent.iterdir()) == [".shards.lock", "shards"]
