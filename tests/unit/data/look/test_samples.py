"""A look treats each sample as `prepare` does."""

from collections import Counter
from pathlib import Path

import pytest
from tests.servers import http_server
from tests.unit.data.samples import bomb_image, image_bytes, record, write_shard

from clips_pipeline.data.look.samples import SeenSample, look_at
from clips_pipeline.data.prepare.filters import CaptionFilter, FilterConfig, SampleRules
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.prepare.statistics import load_statistics
from clips_pipeline.data.scenes.source import ScenesConfig, ScenesSource
from clips_pipeline.data.shards.records import Record
from clips_pipeline.data.sources.folder import FolderConfig, FolderSource
from clips_pipeline.data.sources.img2dataset import Img2datasetConfig, Img2datasetSource
from clips_pipeline.data.storage.files import Storage

RULES = SampleRules("leave_out", FilterConfig(web=CaptionFilter(min_words=2)))


def odd_samples() -> list[Record]:
    """Return samples of every fate."""
    return [
        record(0),
        record(1, web_caption="one"),
        record(2, image=b"no image"),
        record(3, image=bomb_image(60_000, 60_000)),
        record(4, synthetic_caption="x" * 20_000),
        record(5, image=image_bytes(5)[:200]),
        record(6, web_caption="\x1b[31mred words"),
        record(7),
    ]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Four shards, the first of which has samples of every fate."""
    write_shard(tmp_path / "00000.tar", odd_samples(), "00000.tar")
    for shard in (1, 2, 3):
        write_shard(tmp_path / f"{shard:05d}.tar", [record(100 * shard + n) for n in range(20)], f"{shard:05d}.tar")
    return tmp_path


def source(train: str, *, rewrite: bool = False, storage: Storage | None = None) -> Img2datasetSource:
    config = Img2datasetConfig(train, validation="none", test="none", rewrite=rewrite)
    return Img2datasetSource(config, storage or Storage())


def fates(seen: list[SeenSample]) -> Counter[str]:
    return Counter(sample.reason or "used" for sample in seen)


@pytest.mark.parametrize("rewrite", [False, True])
def test_fates_and_reasons_are_those_of_prepare(shards: Path, tmp_path: Path, rewrite: bool) -> None:
    one = source(str(shards / "00000.tar"), rewrite=rewrite)
    seen = look_at(one, "train", 50, RULES)
    prepare(one, tmp_path / "prepared", rules=RULES, max_skipped_fraction=0.9, processes=1)
    statistics = load_statistics(tmp_path / "prepared").splits["train"]
    assert fates(seen) == {"used": statistics.kept, **statistics.skipped, **statistics.filtered}
    assert len(fates(seen)) > 4
    assert [sample.key for sample in seen if sample.record] == [f"k{n:04d}" for n in range(8) if n != 4]


def test_the_first_samples_or_samples_from_everywhere(shards: Path) -> None:
    every = source(f"{shards}/{{00001..00003}}.tar")
    assert [sample.key for sample in look_at(every, "train", 3, RULES)] == ["k0100", "k0101", "k0102"]
    spread = look_at(every, "train", 7, RULES, seed=0)
    keys = [sample.key for sample in spread]
    assert len(set(keys)) == 7
    assert {key[:3] for key in keys} == {"k01", "k02", "k03"}
    assert keys == [sample.key for sample in look_at(every, "train", 7, RULES, seed=0)]
    assert keys != [sample.key for sample in look_at(every, "train", 7, RULES, seed=1)]


def test_of_remote_shards_the_first_samples_of_drawn_ones(shards: Path) -> None:
    with http_server(shards) as http:
        found = look_at(source(f"{http.url}/{{00001..00003}}.tar"), "train", 6, RULES, seed=3)
    assert [sample.key for sample in found] == ["k0100", "k0101", "k0200", "k0201", "k0300", "k0301"]


def test_folders_and_embedded_data(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image_bytes(1))
    (tmp_path / "captions.json").write_text(
        '[{"image": "a.png", "caption": "two words", "long_caption": "Long."}, {"image": "b.png", "caption": "x"}]'
    )
    config = FolderConfig(str(tmp_path), str(tmp_path / "captions.json"), evaluate_on="train")
    for seed in (None, 0):
        found = look_at(FolderSource(config), "train", 10, RULES, seed=seed)
        assert [(sample.key, sample.fate, sample.reason) for sample in found] == [
            ("a", "used", ""),
            ("b.png", "skipped", "missing_image"),
        ]
    scenes = ScenesSource(ScenesConfig(train=30, validation=4, test=4, samples_per_shard=10))
    assert [sample.width for sample in look_at(scenes, "test", 2, RULES)] == [64, 64]
