"""A prepared split as an evaluation set of CLIP_benchmark, whose layout `sources.clip_benchmark` describes and reads."""

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
    """What to write.

    Attributes:
        split: of the prepared shards; it is written under the same name.
        task: `retrieval` writes the captions by people (the web caption where there are none), `classification` the labels.
        samples_per_shard: at most so many per tar file.
        upload: URL to copy the finished set to; None keeps it on this machine alone.
    """

    split: Split = "test"
    task: Literal["retrieval", "classification"] = "retrieval"
    samples_per_shard: PositiveInt = 1_000
    upload: str | None = None


def export_benchmark(shards: Path, folder: Path, config: ExportConfig, remote: ShardCache, storage: Storage) -> int:
    """Write the set into `folder`, which is replaced, and upload it where that is asked for.

    Args:
        shards: of `prepare`.
        folder: for the set.
        config: what to write.
        remote: copies of shards that are elsewhere.
        storage: for the upload.

    Returns:
        number of samples.

    Raises:
        ConfigError: no such split, or nothing in it that fits the task.
        StorageError: the upload failed; the set on this machine is whole.
    """
    with replace_folder(folder) as made:
        (made / config.split).mkdir()
        records = (
            record for record in eval_samples(shards, config.split, remote=remote) if _is_exportable(record, config)
        )
        samples = shard_count = 0
        while (first := next(records, None)) is not None:
            part = (
                _make_sample(record, config) for record in chain([first], islice(records, config.samples_per_shard - 1))
            )
            name = f"{config.split}/{shard_count}.tar"
            samples += write_samples(made / name, part, name).samples
            shard_count += 1
        if not samples:
            raise ConfigError(f"export_benchmark: the {config.split} split of {shards} has no sample for {config.task}")
        (made / config.split / SHARD_COUNT).write_text(f"{shard_count}\n")
        _write_description(shards, made, config)
    if config.upload is not None:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            storage.upload(file, f"{config.upload.rstrip('/')}/{file.relative_to(folder).as_posix()}")
    return samples


def _is_exportable(record: Record, config: ExportConfig) -> bool:
    if config.task == "classification":
        return record.label is not None
    return bool(_captions(record))


def _captions(record: Record) -> list[str]:
    """Those by people, or else the one of the web. A caption is a line, so a line end within one becomes a blank."""
    people = [" ".join(caption.split()) for caption in record.captions]
    return [caption for caption in people or [" ".join(record.web_caption.split())] if caption]


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
    # Keys stay as they are, '/' included: readers of webdataset's layout take it, and no two become one.
    return {"__key__": record.key, record.extension: record.image, ending: text.encode()}
