"""The nodes that prepare data. Each does nothing when what it would make is there and current."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clips_pipeline import formats
from clips_pipeline.config import digest_mapping, from_mapping
from clips_pipeline.data.prepare import run
from clips_pipeline.data.scenes.source import ScenesSource
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.sources.clip_benchmark import ClipBenchmarkSource
from clips_pipeline.data.sources.folder import FolderSource
from clips_pipeline.data.sources.img2dataset import Img2datasetSource
from clips_pipeline.data.sources.recaption import RecaptionSource
from clips_pipeline.io.atomic import replace_folder
from clips_pipeline.pipelines.parameters import typed
from clips_pipeline.reports.data.data_health import write_data_health
from clips_pipeline.text.caption_rows import CaptionConfig
from clips_pipeline.text.tokenizers.bpe import ClipBpeTokenizer
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer, load_tokenizer
from clips_pipeline.text.tokenizers.train_vocabulary import train_wordpiece
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

log = logging.getLogger(__name__)


def make_source(parameters: dict[str, Any], storage: Any, tables: Path) -> Any:
    """The source that the parameters choose: `data.sources.source.Source`.

    Raises:
        ConfigError: its folder or files are missing or unreadable.
    """
    config = typed("prepare", parameters).source
    if config.kind == "folder":
        return FolderSource(config.folder)
    if config.kind == "img2dataset":
        return Img2datasetSource(config.img2dataset, storage)
    if config.kind == "recaption":
        return RecaptionSource(config.recaption, storage, tables)
    if config.kind == "clip_benchmark":
        return ClipBenchmarkSource(config.clip_benchmark, storage)

    return ScenesSource(config.scenes)


def is_current(parameters: dict[str, Any], storage: Any, tables: Path, shards: Path) -> bool:
    """Whether `shards` holds what these parameters would prepare."""

    return run.is_current(make_source(parameters, storage, tables), shards, rules=typed("prepare", parameters).rules)


def prepare_shards(parameters: dict[str, Any], remote: Any, paths: Mapping[str, Path]) -> Path:
    """Source to validated shards and their index."""

    config = typed("prepare", parameters)
    source, target = make_source(parameters, remote.storage, paths["caption_tables"]), paths["shards"]
    run.prepare(
        source,
        target,
        processes=config.processes,
        max_skipped_fraction=config.max_skipped_fraction,
        rules=config.rules,
        run_on=config.run_on,
    )
    return target


def make_tokenizer(parameters: dict[str, Any], shards: Path, remote: Any, paths: Mapping[str, Path]) -> Path:
    """The tokenizer: trained on the train split's captions, or made from a vocabulary file."""

    config, target = typed("prepare", parameters).tokenizer, paths["tokenizer"]
    facts: dict[str, Any] = {"format": formats.TOKENIZER, "tokenizer": digest_mapping(config)}
    if config.kind == "trained":
        facts["shards"] = load_index(shards).version
    if _is_stamped(target, facts):
        log.info("%s: up to date, nothing to do", target)
        return target
    tokenizer: Tokenizer
    with replace_folder(target) as folder:
        if config.kind == "trained":
            records = eval_samples(shards, "train", remote=remote)
            captions = (text for record in records for text in (record.web_caption, record.synthetic_caption))
            tokenizer = train_wordpiece(captions, config.vocabulary_size, folder)
        else:
            if config.kind == "wordpiece":
                tokenizer = WordPieceTokenizer.from_vocab(config.vocabulary_file)
            else:
                tokenizer = ClipBpeTokenizer.from_merges(config.vocabulary_file)
            tokenizer.save(folder)
    _stamp(target, facts)
    log.info("%s: %s tokenizer, %d ids", target, config.kind, tokenizer.vocab_size)
    return target


def report_health(
    parameters: dict[str, Any],
    captions: dict[str, Any],
    shards: Path,
    tokenizer: Path,
    remote: Any,
    paths: Mapping[str, Path],
) -> Path:
    """What the data consists of, what was left out and what the model will read of it, as one HTML file."""
    config, target = typed("prepare", parameters).health, paths["data_health"]
    rows = from_mapping(CaptionConfig, captions, "train.captions")
    index = load_index(shards)
    # The fingerprint too: another filter or source may leave the same samples and other counts.
    facts = {
        "format": formats.DATA_HEALTH,
        "health": digest_mapping(config),
        "captions": digest_mapping(rows),
        "shards": [index.version, index.fingerprint],
        "tokenizer": _contents(tokenizer),
    }
    if _is_stamped(target, facts):
        log.info("%s: up to date, nothing to do", target)
        return target
    write_data_health(shards, load_tokenizer(tokenizer), rows, config, target, remote)
    _stamp(target, facts)
    log.info("%s: written", target)
    return target


# A stamp says of which facts a file or folder was made, so that making it again can be left out. It stands beside what it
# vouches for, so that it travels neither with an exported model nor through DVC.


def _stamp_file(made: Path) -> Path:
    """Where the stamp of `made` stands."""
    return made.with_name(f".{made.name}.stamp")


def _stamp(made: Path, facts: dict[str, Any]) -> None:
    """Remember the facts. Call it last: what has no stamp is made again."""
    _stamp_file(made).write_text(json.dumps({"facts": facts, "contents": _contents(made)}, indent=1, sort_keys=True))


def _is_stamped(made: Path, facts: dict[str, Any]) -> bool:
    """Whether `made` exists, was made of `facts`, and holds what it held then."""
    try:
        found = json.loads(_stamp_file(made).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return made.exists() and found == {"facts": facts, "contents": _contents(made)}


def _contents(made: Path) -> dict[str, str]:
    """sha256 of a file, or of every file of a folder, by name."""
    files = sorted(path for path in made.rglob("*") if path.is_file()) if made.is_dir() else [made]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.exists()}
