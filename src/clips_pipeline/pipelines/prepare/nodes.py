"""Nodes of the `prepare` pipeline. A node does nothing if its output exists and is current."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clips_pipeline import formats
from clips_pipeline.config import ConfigError, digest_mapping, from_mapping
from clips_pipeline.data.prepare import run
from clips_pipeline.data.scenes.source import ScenesSource
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.records import Record
from clips_pipeline.data.sources.clip_benchmark import ClipBenchmarkSource
from clips_pipeline.data.sources.folder import FolderSource
from clips_pipeline.data.sources.img2dataset import Img2datasetSource
from clips_pipeline.data.sources.parquet import ParquetSource
from clips_pipeline.data.sources.recaption import RecaptionSource
from clips_pipeline.io.atomic import replace_folder, write_text
from clips_pipeline.io.file_lock import lock_target
from clips_pipeline.io.terminal import shown_path
from clips_pipeline.pipelines.parameters import typed
from clips_pipeline.reports.data.data_health import write_data_health
from clips_pipeline.text.caption_rows import CaptionConfig
from clips_pipeline.text.tokenizers.bpe import ClipBpeTokenizer
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer, load_tokenizer
from clips_pipeline.text.tokenizers.train_vocabulary import train_wordpiece
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

log = logging.getLogger(__name__)


def make_source(parameters: dict[str, Any], storage: Any, tables: Path) -> Any:
    """Return the source that the parameters select, a `data.sources.source.Source`.

    Raises:
        ConfigError: its folder or files are missing or unreadable.
    """
    try:
        return _open_source(typed("prepare", parameters), storage, tables)
    except ConfigError as error:
        # A source knows its own group; a person looks for the whole key.
        raise ConfigError(f"prepare.{error}" if str(error).startswith("source.") else str(error)) from None


def _open_source(prepare: Any, storage: Any, tables: Path) -> Any:
    config, limits = prepare.source, prepare.limits
    if config.kind == "folder":
        return FolderSource(config.folder, limits)
    if config.kind == "img2dataset":
        return Img2datasetSource(config.img2dataset, storage, limits)
    if config.kind == "parquet":
        return ParquetSource(config.parquet, storage, limits)
    if config.kind == "recaption":
        return RecaptionSource(config.recaption, storage, tables, limits)
    if config.kind == "clip_benchmark":
        return ClipBenchmarkSource(config.clip_benchmark, storage, limits)

    return ScenesSource(config.scenes, limits)


def is_current(parameters: dict[str, Any], storage: Any, tables: Path, shards: Path) -> bool:
    """Return whether `shards` holds what these parameters would prepare."""

    return run.is_current(make_source(parameters, storage, tables), shards, rules=typed("prepare", parameters).rules)


def prepare_shards(parameters: dict[str, Any], remote: Any, paths: Mapping[str, Path]) -> Path:
    """Write validated shards and their index from the source."""

    config = typed("prepare", parameters)
    source, target = make_source(parameters, remote.storage, paths["caption_tables"]), paths["shards"]
    run.prepare(
        source,
        target,
        processes=config.processes,
        max_skipped_fraction=config.max_skipped_fraction,
        rules=config.rules,
        run_on=config.run_on,
        watchdog=None if config.source.kind == "scenes" else config.watchdog,
    )
    return target


def make_tokenizer(parameters: dict[str, Any], shards: Path, remote: Any, paths: Mapping[str, Path]) -> Path:
    """Write the tokenizer: trained on the captions of the train split, or made from a vocabulary file."""

    config, target = typed("prepare", parameters).tokenizer, paths["tokenizer"]
    facts: dict[str, Any] = {"format": formats.TOKENIZER, "tokenizer": digest_mapping(config)}
    if config.kind == "trained":
        facts["shards"] = load_index(shards).version
    with lock_target(target):
        if _is_stamped(target, facts):
            log.info("%s: up to date, nothing to do", shown_path(target))
            return target
        tokenizer = _write_tokenizer(config, shards, remote, target)
        _stamp(target, facts)
    log.info("%s: %s tokenizer, %d ids", shown_path(target), config.kind, tokenizer.vocab_size)
    return target


def _write_tokenizer(config: Any, shards: Path, remote: Any, target: Path) -> Tokenizer:
    tokenizer: Tokenizer
    with replace_folder(target) as folder:
        if config.kind == "trained":
            records = eval_samples(shards, "train", remote=remote)
            captions = (text for record in records for text in _texts(record))
            tokenizer = train_wordpiece(captions, config.vocabulary_size, folder)
        else:
            if config.kind == "wordpiece":
                tokenizer = WordPieceTokenizer.from_vocab(config.vocabulary_file)
            else:
                tokenizer = ClipBpeTokenizer.from_merges(config.vocabulary_file)
            tokenizer.save(folder)
    return tokenizer


def _texts(record: Record) -> Iterator[str]:
    yield from record.web_captions or ("",)
    yield from (caption.text for caption in record.synthetic_captions)


def report_health(
    parameters: dict[str, Any],
    captions: dict[str, Any],
    shards: Path,
    tokenizer: Path,
    remote: Any,
    paths: Mapping[str, Path],
) -> Path:
    """Write the data health report (HTML): content of the data, samples left out, and what the model reads."""
    config, target = typed("prepare", parameters).health, paths["data_health"]
    rows = from_mapping(CaptionConfig, captions, "train.captions")
    index = load_index(shards)
    # Includes the fingerprint: another filter or source may give the same samples but other counts.
    facts = {
        "format": formats.DATA_HEALTH,
        "health": digest_mapping(config),
        "captions": digest_mapping(rows),
        "shards": [index.version, index.fingerprint],
        "tokenizer": _contents(tokenizer),
    }
    with lock_target(target):
        if _is_stamped(target, facts):
            log.info("%s: up to date, nothing to do", shown_path(target))
            return target
        write_data_health(shards, load_tokenizer(tokenizer), rows, config, target, remote)
        _stamp(target, facts)
    log.info("%s: written", shown_path(target))
    return target


# A stamp records what a file or folder was made from, so that it need not be made again. It is stored beside its
# target, so that neither an exported model nor DVC includes it.


def _stamp_file(made: Path) -> Path:
    """Return the path of the stamp of `made`."""
    return made.with_name(f".{made.name}.stamp")


def _stamp(made: Path, facts: dict[str, Any]) -> None:
    """Write the stamp. Call it last: an output without a stamp is made again."""
    write_text(_stamp_file(made), json.dumps({"facts": facts, "contents": _contents(made)}, indent=1, sort_keys=True))


def _is_stamped(made: Path, facts: dict[str, Any]) -> bool:
    """Return whether `made` exists, was made from `facts`, and is unchanged since."""
    try:
        found = json.loads(_stamp_file(made).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return made.exists() and found == {"facts": facts, "contents": _contents(made)}


def _contents(made: Path) -> dict[str, str]:
    """Return the SHA-256 of a file, or of every file of a folder, by name."""
    files = sorted(path for path in made.rglob("*") if path.is_file()) if made.is_dir() else [made]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.exists()}
