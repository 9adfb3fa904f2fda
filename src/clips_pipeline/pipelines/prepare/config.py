"""Parameters of the `prepare` pipeline."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le

from clips_pipeline.config import ConfigError, FormerName, Fraction
from clips_pipeline.data.limits import SampleLimits
from clips_pipeline.data.prepare.executor import ExecutorConfig
from clips_pipeline.data.prepare.filters import FilterConfig, SampleRules
from clips_pipeline.data.prepare.watchdog import WatchdogConfig
from clips_pipeline.data.scenes.source import ScenesConfig
from clips_pipeline.data.sources.clip_benchmark import ClipBenchmarkConfig
from clips_pipeline.data.sources.folder import FolderConfig
from clips_pipeline.data.sources.img2dataset import Img2datasetConfig
from clips_pipeline.data.sources.parquet import ParquetConfig
from clips_pipeline.data.sources.recaption import RecaptionConfig
from clips_pipeline.io.redact import redact
from clips_pipeline.reports.data.data_health import HealthConfig
from clips_pipeline.text.tokenizers.train_vocabulary import MIN_VOCAB_SIZE


@dataclass(frozen=True)
class SourceConfig:
    """Source of the samples: `kind` selects one of the groups.

    Attributes:
        kind: the group that is read.
        scenes: the embedded data.
        folder: a folder of images and one captions file.
        img2dataset: shards in place, local or remote.
        recaption: such shards, or a folder of images, joined with tables of captions.
        parquet: Parquet files with the images in them, local or remote.
        clip_benchmark: a dataset for evaluation in the layout of CLIP_benchmark.
    """

    kind: Literal["scenes", "folder", "img2dataset", "parquet", "recaption", "clip_benchmark"] = "scenes"
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    folder: FolderConfig | None = None
    img2dataset: Img2datasetConfig | None = None
    parquet: ParquetConfig | None = None
    recaption: RecaptionConfig | None = None
    clip_benchmark: ClipBenchmarkConfig | None = None

    def __post_init__(self) -> None:
        if getattr(self, self.kind) is None:
            raise ConfigError(
                f"kind: {self.kind!r}, but the group {self.kind!r} is missing; set {_REQUIRED_KEYS[self.kind]}, "
                "see docs/how-to/sources.md"
            )

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses of images, shards and tables; empty for the embedded data."""
        found = {
            "folder": self.folder and (self.folder.images, self.folder.captions),
            "img2dataset": self.img2dataset and (self.img2dataset.train,),
            "parquet": self.parquet and (self.parquet.train,),
            "recaption": self.recaption and (self.recaption.train, self.recaption.tables),
            "clip_benchmark": self.clip_benchmark and (self.clip_benchmark.root, self.clip_benchmark.split),
        }.get(self.kind)
        return tuple(redact(one) for each in found or () for one in ((each,) if isinstance(each, str) else each))


_REQUIRED_KEYS = {
    "folder": "source.folder.images and .captions",
    "img2dataset": "source.img2dataset.train",
    "parquet": "source.parquet.train and .columns",
    "recaption": "source.recaption.train and .tables",
    "clip_benchmark": "source.clip_benchmark.root",
}


@dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer: `trained` on the captions of the train split, or made from a vocabulary file.

    Attributes:
        kind: `trained` and `wordpiece` are BERT-style WordPiece, `clip_bpe` is CLIP's byte-pair encoding.
        vocabulary_size: size for `trained`.
        vocabulary_file: `vocab.txt` for `wordpiece`, the merges file for `clip_bpe`.
    """

    kind: Literal["trained", "wordpiece", "clip_bpe"] = "trained"
    vocabulary_size: Annotated[int, Ge(MIN_VOCAB_SIZE), Le(2**24)] = 1000
    vocabulary_file: str | None = None

    def __post_init__(self) -> None:
        if self.kind != "trained" and self.vocabulary_file is None:
            raise ConfigError(f"vocabulary_file: missing; kind {self.kind!r} needs the path of its file")


@dataclass(frozen=True)
class PrepareConfig:
    """Parameters of source, shards, tokenizer and data health report.

    Attributes:
        source: source of the samples.
        tokenizer: how text becomes token ids.
        processes: number of processes that make shards; the result does not depend on it.
        run_on: executor of the jobs; the result does not depend on it.
        max_skipped_fraction: limit on the fraction of samples that cannot be used; above it, the run fails. A damaged
            shard counts as the mean number of samples of the others.
        limits: limits on one sample, recorded with the shards; training and evaluation apply them too.
        interleaved: whether to use samples of shards in place whose files are separated by files of other samples;
            other readers would see partial samples. Samples whose files are far apart are never used.
        watchdog: bounds on the time of jobs.
        filters: conditions on usable samples.
        health: parameters of the data health report.
    """

    source: SourceConfig = field(default_factory=SourceConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    processes: Annotated[int, Ge(1), Le(1024)] = 2
    run_on: ExecutorConfig = field(default_factory=ExecutorConfig)
    max_skipped_fraction: Annotated[Fraction, FormerName("max_skip_share")] = 0.05
    limits: SampleLimits = field(default_factory=SampleLimits)
    interleaved: Literal["leave_out", "keep"] = "leave_out"
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    filters: FilterConfig = field(default_factory=FilterConfig)
    health: HealthConfig = field(default_factory=HealthConfig)

    @property
    def rules(self) -> SampleRules:
        """Rules on which samples are used."""
        return SampleRules(self.interleaved, self.filters)
