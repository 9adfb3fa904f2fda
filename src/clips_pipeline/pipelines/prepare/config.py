"""What can be set about preparing data."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le

from clips_pipeline.config import ConfigError, FormerName, Fraction
from clips_pipeline.data.prepare.executor import ExecutorConfig
from clips_pipeline.data.prepare.filters import MAX_PIXELS, FilterConfig, Rules
from clips_pipeline.data.scenes.source import ScenesConfig
from clips_pipeline.data.sources.clip_benchmark import ClipBenchmarkConfig
from clips_pipeline.data.sources.folder import FolderConfig
from clips_pipeline.data.sources.img2dataset import Img2datasetConfig
from clips_pipeline.data.sources.recaption import RecaptionConfig
from clips_pipeline.data.storage.files import redact
from clips_pipeline.reports.data.data_health import HealthConfig
from clips_pipeline.text.tokenizers.train_vocabulary import MIN_VOCAB_SIZE


@dataclass(frozen=True)
class SourceConfig:
    """Where samples come from: `kind` chooses, the group of that name says the rest.

    Attributes:
        kind: which of the groups below is read.
        scenes: the embedded data.
        folder: images and one file of captions.
        img2dataset: shards in place, local or remote.
        recaption: such shards, and tables of synthetic captions.
        clip_benchmark: an evaluation set in the layout of CLIP_benchmark.
    """

    kind: Literal["scenes", "folder", "img2dataset", "recaption", "clip_benchmark"] = "scenes"
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    folder: FolderConfig | None = None
    img2dataset: Img2datasetConfig | None = None
    recaption: RecaptionConfig | None = None
    clip_benchmark: ClipBenchmarkConfig | None = None

    def __post_init__(self) -> None:
        if getattr(self, self.kind) is None:
            raise ConfigError(
                f"kind: {self.kind!r}, but the group {self.kind!r} is missing; set {_REQUIRED_KEYS[self.kind]}, see docs/data.md"
            )

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of its images, shards and tables; empty for the embedded data."""
        found = {
            "folder": self.folder and (self.folder.images, self.folder.captions),
            "img2dataset": self.img2dataset and (self.img2dataset.train,),
            "recaption": self.recaption and (self.recaption.train, self.recaption.tables),
            "clip_benchmark": self.clip_benchmark and (self.clip_benchmark.root, self.clip_benchmark.split),
        }.get(self.kind)
        return tuple(redact(one) for each in found or () for one in ((each,) if isinstance(each, str) else each))


_REQUIRED_KEYS = {
    "folder": "source.folder.images and .captions",
    "img2dataset": "source.img2dataset.train",
    "recaption": "source.recaption.train and .tables",
    "clip_benchmark": "source.clip_benchmark.root",
}


@dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer: `trained` on the captions of the train split, or made from a vocabulary file.

    Attributes:
        kind: `trained` and `wordpiece` give BERT-style WordPiece, `clip_bpe` CLIP's byte pairs.
        vocabulary_size: of `trained`.
        vocabulary_file: `vocab.txt` of `wordpiece`, merges of `clip_bpe`.
    """

    kind: Literal["trained", "wordpiece", "clip_bpe"] = "trained"
    vocabulary_size: Annotated[int, Ge(MIN_VOCAB_SIZE), Le(2**24)] = 1000
    vocabulary_file: str | None = None

    def __post_init__(self) -> None:
        if self.kind != "trained" and self.vocabulary_file is None:
            raise ConfigError(f"vocabulary_file: missing; kind {self.kind!r} needs the path of its file")


@dataclass(frozen=True)
class PrepareConfig:
    """Source, shards, tokenizer and report.

    Attributes:
        source: where samples come from.
        tokenizer: how text becomes ids.
        processes: that make shards side by side; the result does not depend on it.
        run_on: these processes, or a cluster; the result does not depend on it.
        max_skipped_fraction: of samples that cannot be used; more stop the run. A damaged shard counts as many as others hold.
        max_pixels: of an image; more count as a decompression bomb.
        interleaved: samples of shards in place whose files do not stand side by side: other readers would see pieces.
        filters: of usable samples, those that are wanted.
        health: what the data health report reads.
    """

    source: SourceConfig = field(default_factory=SourceConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    processes: Annotated[int, Ge(1), Le(1024)] = 2
    run_on: ExecutorConfig = field(default_factory=ExecutorConfig)
    max_skipped_fraction: Annotated[Fraction, FormerName("max_skip_share")] = 0.05
    max_pixels: Annotated[int, Ge(1), Le(MAX_PIXELS)] = MAX_PIXELS
    interleaved: Literal["leave_out", "keep"] = "leave_out"
    filters: FilterConfig = field(default_factory=FilterConfig)
    health: HealthConfig = field(default_factory=HealthConfig)

    @property
    def rules(self) -> Rules:
        """Which samples are taken."""
        return Rules(self.max_pixels, self.interleaved, self.filters)
