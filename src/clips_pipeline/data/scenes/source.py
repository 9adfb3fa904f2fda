"""The embedded data as a source."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from clips_pipeline import formats
from clips_pipeline.config import ConfigError, Fraction, LaterField, NonNegativeInt, PositiveInt, Seed, digest_mapping
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.scenes.brief_captions import brief_caption
from clips_pipeline.data.scenes.human_captions import human_captions
from clips_pipeline.data.scenes.questions import scene_questions
from clips_pipeline.data.scenes.random_integers import RandomStream
from clips_pipeline.data.scenes.render import encode_png, render
from clips_pipeline.data.scenes.scene import Scene, draw_scene
from clips_pipeline.data.scenes.shapes import KINDS
from clips_pipeline.data.scenes.synthetic_captions import SyntheticCaption, synthetic_caption
from clips_pipeline.data.scenes.web_captions import WebCaption, web_caption
from clips_pipeline.data.shards.records import Caption, Record, Skip
from clips_pipeline.data.shards.splits import Classes, Split
from clips_pipeline.data.sources.source import ShardTask, Source

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

CAPTIONERS = ("detailed", "brief")
"""Names of the captioners, where there are two."""

TEMPLATES: tuple[str, ...] = (
    "a picture of a {}.",
    "an illustration of a {}.",
    "a drawing of a {}.",
    "a large {}.",
    "the image shows a {}.",
    "a scene with a {}.",
    "a cartoon {}.",
)
"""Zero-shot prompts; {} is replaced by the class name."""


@dataclass(frozen=True)
class ScenesConfig:
    """Amount and noise of the embedded data.

    Attributes:
        train: number of images in the split.
        validation: number of images in the split.
        test: number of images in the split.
        image_size: pixels per side.
        samples_per_shard: images that one task renders into one shard.
        seed: seed of all images and captions.
        web_noise: fraction of web captions that are not a true remark about a thing; affects nothing else.
        hallucination: fraction of synthetic captions with one untrue sentence; affects nothing else.
        captioners: captioners that write a synthetic caption of each image: 1, without a name; 2, the same one as `detailed`
            and a second one as `brief`.
    """

    train: NonNegativeInt = 20_000
    validation: NonNegativeInt = 500
    test: NonNegativeInt = 1_000
    image_size: Annotated[int, Ge(16), Le(512)] = 64
    samples_per_shard: PositiveInt = 1_000
    seed: Seed = 0
    web_noise: Fraction = 0.5
    hallucination: Fraction = 0.15
    captioners: Annotated[Literal[1, 2], LaterField()] = 1


@dataclass(frozen=True)
class SceneSample:
    """One sample before encoding: the scene and its captions."""

    scene: Scene
    web: WebCaption
    synthetic: SyntheticCaption
    brief: SyntheticCaption | None = None

    @property
    def synthetic_captions(self) -> tuple[Caption, ...]:
        """The captions of all captioners; one captioner alone has no name."""
        if self.brief is None:
            return (Caption(self.synthetic.text),)
        return tuple(map(Caption, (self.synthetic.text, self.brief.text), CAPTIONERS))


def scene_of(config: ScenesConfig, split: str, index: int) -> Scene:
    """Return scene number `index` of a split; a pure function of its arguments."""
    return draw_scene(RandomStream(config.seed, split, index, "scene"))


def scene_sample(config: ScenesConfig, split: str, index: int) -> SceneSample:
    """Return scene and captions number `index` of a split; a pure function of its arguments."""
    name = (config.seed, split, index)
    scene = scene_of(config, split, index)
    # Every part has its own random stream, so changing one noise changes nothing else.
    return SceneSample(
        scene,
        web_caption(scene, config.web_noise, RandomStream(*name, "web")),
        synthetic_caption(scene, config.hallucination, RandomStream(*name, "synthetic")),
        brief_caption(scene, config.hallucination, RandomStream(*name, "brief")) if config.captioners > 1 else None,
    )


def scene_record(config: ScenesConfig, split: str, index: int) -> Record:
    """Return record number `index` of a split; with five human-style captions and with questions, except in `train`."""
    name = (config.seed, split, index)
    sample = scene_sample(config, split, index)
    return Record(
        key=f"{split}-{index:07d}",
        image=encode_png(render(sample.scene, config.image_size, RandomStream(*name, "picture"))),
        extension="png",
        web_captions=(sample.web.text,),
        synthetic_captions=sample.synthetic_captions,
        captions=() if split == "train" else human_captions(sample.scene, RandomStream(*name, "human")),
        label=KINDS.index(sample.scene.main.kind),
        questions=() if split == "train" else scene_questions(sample.scene, RandomStream(*name, "questions")),
    )


@dataclass(frozen=True)
class ScenesTask:
    """The samples `start` to `stop` (excluded) of a split; small to pickle, rendered by the worker process."""

    config: ScenesConfig
    split: str
    start: int
    stop: int

    def records(self) -> Iterator[Record | Skip]:
        """Render the samples in order; none is skipped."""
        for index in range(self.start, self.stop):
            yield scene_record(self.config, self.split, index)


class ScenesSource(Source):
    """The embedded data: rendered scenes."""

    def __init__(self, config: ScenesConfig, limits: SampleLimits = DEFAULT_LIMITS) -> None:
        self.config, self.limits = config, limits

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that have at least one image."""
        return tuple(split for split in SPLITS if getattr(self.config, split) > 0)

    def tasks(self, split: Split) -> list[ShardTask]:
        """Return one task per shard.

        Raises:
            ConfigError: the split is unknown or empty.
        """
        if split not in self.splits:
            raise ConfigError(f"split '{split}': the embedded data has {', '.join(self.splits) or 'no images'}")
        total, step = getattr(self.config, split), self.config.samples_per_shard
        return [ScenesTask(self.config, split, at, min(at + step, total)) for at in range(0, total, step)]

    def classes(self) -> Classes:
        """Return the 22 kinds of things; a record's label is the index of the kind of its main thing."""
        return Classes(names=KINDS, templates=TEMPLATES)

    def fingerprint(self) -> str:
        """Return a digest of the configuration and the format version, which determine all records."""
        facts = json.dumps({"format": formats.SCENES, **digest_mapping(self.config)}, sort_keys=True)
        return hashlib.sha256(f"scenes {facts}".encode()).hexdigest()
