"""Export of a prepared split in the layout of CLIP_benchmark, which `sources.clip_benchmark` describes and reads."""

from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from clips_pipeline.config import ConfigError, PositiveInt
from clips_pipeline.data.shards.index import load_classes
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.records import Record
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.shards.writer import Sample, write_samples
from clips_pipeline.data.sources.clip_benchmark import (
    CLASS_NAMES,
    CLASS_PLACE,
    CLASSIFICATION,
    RETRIEVAL,
    SET_TYPE,
    SHARD_COUNT,
    TEMPLATES,
)
from clips_pipeline.data.storage.files import Storage
from clips_pipeline.io.atomic import replace_folder


@dataclass(frozen=True)
class ExportConfig:
    """What to export.

    Attributes:
        split: split of the prepared shards; the exported split has the same name.
        task: `retrieval` exports human captions (or the web caption if there are none), `classification` exports
            labels.
        samples_per_shard: limit per tar file.
        upload: URL to copy the dataset to; None keeps it on this machine only.
    """

    split: Split = "test"
    task: Literal["retrieval", "classification"] = "retrieval"
    samples_per_shard: PositiveInt = 1_000
    upload: str | None = None


def export_benchmark(shards: Path, folder: Path, config: ExportConfig, remote: ShardCache, storage: Storage) -> int:
    """Write the dataset into `folder`, which is replaced, and upload it if configured.

    Args:
        shards: folder of prepared shards.
        folder: folder of the dataset.
        config: what to export.
        remote: cache of remote shards.
        storage: access for the upload.

    Returns:
        Number of samples.

    Raises:
        ConfigError: the split does not exist, or has no sample for the task.
        StorageError: the upload failed; the dataset on this machine is complete.
    """
    with replace_folder(folder) as temporary:
        (temporary / config.split).mkdir()
        records = (
            record for record in eval_samples(shards, config.split, remote=remote) if _is_exportable(record, config)
        )
        samples = shard_count = 0
        while (first := next(records, None)) is not None:
            part = (
                _make_sample(record, config) for record in chain([first], islice(records, config.samples_per_shard - 1))
            )
            name = f"{config.split}/{shard_count}.tar"
            samples += write_samples(temporary / name, part, name).samples
            shard_count += 1
        if not samples:
            raise ConfigError(f"export_benchmark: the {config.split} split of {shards} has no sample for {config.task}")
        (temporary / config.split / SHARD_COUNT).write_text(f"{shard_count}\n")
        _write_description(shards, temporary, config)
    if config.upload is not None:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            storage.upload(file, f"{config.upload.rstrip('/')}/{file.relative_to(folder).as_posix()}")
    return samples


def _is_exportable(record: Record, config: ExportConfig) -> bool:
    if config.task == "classification":
        return record.label is not None
    return bool(_captions(record))


def _captions(record: Record) -> list[str]:
    """Return the human captions, or else the web caption. Line ends become blanks, because a caption is one line."""
    human_captions = [" ".join(caption.split()) for caption in record.captions]
    return [caption for caption in human_captions or [" ".join(record.web_caption.split())] if caption]


def _write_description(shards: Path, folder: Path, config: ExportConfig) -> None:
    if config.task == "retrieval":
        (folder / SET_TYPE).write_text(f"{RETRIEVAL}\n")
        return
    classes = load_classes(shards)
    if classes is None:
        raise ConfigError(f"export_benchmark: {shards} names no classes; only a source with classes can be exported so")
    (folder / SET_TYPE).write_text(f"{CLASSIFICATION}\n")
    (folder / CLASS_NAMES).write_text(
        "".join(f"{' '.join(name.split())}\n" for name in classes.names), encoding="utf-8"
    )
    templates = (template.replace("{}", CLASS_PLACE) for template in classes.templates)
    (folder / TEMPLATES).write_text("".join(f"{template}\n" for template in templates), encoding="utf-8")


def _make_sample(record: Record, config: ExportConfig) -> Sample:
    if config.task == "classification":
        text, ending = str(record.label), "cls"
    else:
        text, ending = "\n".join(_captions(record)), "txt"
    # Keys are unchanged, '/' included: readers of webdataset's layout accept them, and they stay unique.
    return {"__key__": record.key, record.extension: record.image, ending: text.encode()}
