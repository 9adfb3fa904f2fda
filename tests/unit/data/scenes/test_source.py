"""The embedded data as a source."""

import hashlib
import io
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
from PIL import Image

from clips_pipeline import formats
from clips_pipeline.config import ConfigError, from_mapping, to_mapping
from clips_pipeline.data.scenes.scene import Scene
from clips_pipeline.data.scenes.shapes import KINDS
from clips_pipeline.data.scenes.source import ScenesConfig, ScenesSource, ScenesTask, scene_record, scene_sample
from clips_pipeline.data.scenes.synthetic_captions import SyntheticCaption
from clips_pipeline.data.shards.records import Record
from clips_pipeline.data.sources.source import ShardTask, Source

SMALL = ScenesConfig(train=70, validation=12, test=25, samples_per_shard=30)

# Pixels, captions and questions of the first images of each split under the default configuration. After an intended change of
# drawings, captions or questions, raise formats.SCENES (shards are then prepared again) and enter the new digest.
GOLDEN = (3, "7084c2f25b8ba0e90f2ca810a94f32a6b215945c043d6c311ae4b8dba06a405d")


def collect(task: ShardTask) -> list[Record]:
    records = list(task.records())
    assert all(isinstance(record, Record) for record in records)
    return [record for record in records if isinstance(record, Record)]


def digest(records: list[Record]) -> str:
    """Return a digest over decoded pixels; PNG bytes depend on the zlib version."""
    total = hashlib.sha256()
    for record in records:
        with Image.open(io.BytesIO(record.image)) as image:
            total.update(np.asarray(image).tobytes())
        asked = [text for question in record.questions for text in question]
        text = "\n".join((record.key, record.web_caption, record.synthetic_caption, *record.captions, *asked))
        total.update(f"{text}\n{record.label}\n".encode())
    return total.hexdigest()


def test_golden_pixels_and_captions() -> None:
    splits = ("train", "validation", "test")
    records = [scene_record(ScenesConfig(), split, index) for split in splits for index in range(200)]
    assert (formats.SCENES, digest(records)) == GOLDEN


def test_a_process_pool_renders_the_same_records() -> None:
    tasks = [task for split in ScenesSource(SMALL).splits for task in ScenesSource(SMALL).tasks(split)]
    here = [collect(task) for task in tasks]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        there = list(pool.map(collect, reversed(tasks)))
    assert here == there[::-1]


def test_records_do_not_depend_on_hash_seed() -> None:
    code = (
        "from clips_pipeline.data.scenes.source import *\n"
        "print([scene_record(ScenesConfig(), 'test', i).captions for i in range(30)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_source_covers_every_sample_once() -> None:
    source: Source = ScenesSource(SMALL)
    assert source.splits == ("train", "validation", "test")
    for split, count, shards in (("train", 70, 3), ("validation", 12, 1), ("test", 25, 1)):
        tasks = source.tasks(split)
        keys = [record.key for task in tasks for record in collect(task)]
        assert len(tasks) == shards
        assert len(keys) == len(set(keys)) == count
        assert not any("." in key for key in keys)


def test_records_are_complete() -> None:
    classes = ScenesSource(SMALL).classes()
    assert classes.names == KINDS
    for split in ("train", "validation", "test"):
        for index in range(10):
            record = scene_record(SMALL, split, index)
            scene: Scene = scene_sample(SMALL, split, index).scene
            with Image.open(io.BytesIO(record.image)) as image:
                assert image.size == (64, 64)
            assert record.extension == "png"
            assert record.label is not None
            assert classes.names[record.label] == scene.main.kind
            assert len(record.captions) == (0 if split == "train" else 5)
            assert bool(record.questions) == (split != "train")


def test_images_differ_within_and_between_splits_and_seeds() -> None:
    records = [scene_record(SMALL, split, i) for split in ("train", "validation", "test") for i in range(50)]
    records += [scene_record(replace(SMALL, seed=1), "train", i) for i in range(50)]
    assert len({record.image for record in records}) == 200
    assert len({record.synthetic_caption for record in records}) == 200


def test_a_task_is_small_to_pickle() -> None:
    task = ScenesSource(ScenesConfig()).tasks("train")[3]
    assert len(pickle.dumps(task)) < 500
    assert pickle.loads(pickle.dumps(task)) == task  # noqa: S301


def test_more_images_keep_the_earlier_ones() -> None:
    larger = replace(SMALL, train=80, samples_per_shard=40)
    assert collect(ScenesTask(SMALL, "train", 60, 70)) == collect(ScenesTask(larger, "train", 60, 70))


def test_fingerprint_differs_between_configurations() -> None:
    changes = [{}, {"seed": 1}, {"train": 71}, {"web_noise": 0.1}, {"hallucination": 0.1}, {"image_size": 32}]
    prints = [ScenesSource(replace(SMALL, **change)).fingerprint() for change in changes]
    assert len(set(prints)) == len(changes)
    assert ScenesSource(replace(SMALL)).fingerprint() == prints[0]


def test_split_without_images_is_left_out() -> None:
    source = ScenesSource(replace(SMALL, validation=0))
    assert source.splits == ("train", "test")
    with pytest.raises(ConfigError, match="validation"):
        source.tasks("validation")


@pytest.mark.parametrize(
    ("key", "value"),
    [("train", -1), ("image_size", 8), ("samples_per_shard", 0), ("web_noise", 1.5), ("hallucination", -0.1)],
)
def test_impossible_configurations_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"source\.{key}"):
        from_mapping(ScenesConfig, {key: value}, "source")


def test_configuration_round_trip() -> None:
    assert from_mapping(ScenesConfig, to_mapping(SMALL), "source") == SMALL


def test_a_second_captioner_changes_nothing_else() -> None:
    both = replace(SMALL, captioners=2)
    for index in range(40):
        one, two = scene_record(SMALL, "test", index), scene_record(both, "test", index)
        assert [caption.captioner for caption in two.synthetic_captions] == ["detailed", "brief"]
        detailed, brief = (caption.text for caption in two.synthetic_captions)
        assert (detailed, one.synthetic_captions[0].captioner) == (one.synthetic_caption, "")
        assert replace(two, synthetic_captions=one.synthetic_captions) == one
        assert len(brief.split()) < len(detailed.split())
    assert ScenesSource(both).fingerprint() != ScenesSource(SMALL).fingerprint()


def test_the_second_captioner_is_wrong_twice_as_often() -> None:
    wrong = [bool(brief.hallucinated) for brief in (_brief(index, 0.15) for index in range(1_000))]
    # Five standard deviations of 1,000 draws.
    assert abs(sum(wrong) / 1_000 - 0.3) < 0.073
    assert all(brief.hallucinated for brief in (_brief(index, 0.5) for index in range(50)))
    # The text itself splits into the same sentences.
    for brief in (_brief(index, 0.15) for index in range(100)):
        assert [part.strip() for part in brief.text.split(".") if part] == list(brief.sentences)


def _brief(index: int, hallucination: float) -> SyntheticCaption:
    config = replace(SMALL, train=1_000, captioners=2, hallucination=hallucination)
    brief = scene_sample(config, "train", index).brief
    assert brief is not None
    return brief
