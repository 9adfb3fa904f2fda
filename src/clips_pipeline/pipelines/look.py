"""`kedro data look`: a few samples of the configured source, read before anything is prepared."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clips_pipeline.config import ConfigError
from clips_pipeline.data.look.brief_join import BriefRecaptionSource
from clips_pipeline.data.look.brief_parquet import BriefParquetSource
from clips_pipeline.data.look.first_samples import FirstSamples, brief
from clips_pipeline.data.look.samples import SeenSample, look_at
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.sources.source import Source
from clips_pipeline.data.storage.credentials import refuse_secrets
from clips_pipeline.datasets.remote import RemoteDataset
from clips_pipeline.io.redact import redact
from clips_pipeline.io.temporary import temporary_folder
from clips_pipeline.pipelines import environments
from clips_pipeline.pipelines.parameters import typed
from clips_pipeline.pipelines.prepare.nodes import make_source
from clips_pipeline.reports.data.data_look import Look, find_problems, make_card
from clips_pipeline.reports.data.readings import SampleReadings
from clips_pipeline.text.caption_rows import CaptionReader
from clips_pipeline.text.fragments import FragmentConfig
from clips_pipeline.text.tokenizers.bpe import ClipBpeTokenizer
from clips_pipeline.text.tokenizers.tokenizer import CONFIG_FILE, Tokenizer, load_tokenizer
from clips_pipeline.text.tokenizers.train_vocabulary import SPECIALS, train_wordpiece
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer


def look(
    loader: Any, paths: Mapping[str, Path], environment: str, *, split: str | None, samples: int, seed: int | None
) -> Look:
    """Read a few samples as `prepare` and a training would. Writes nothing.

    Args:
        loader: Kedro's loader of the environment's configuration.
        paths: folders of the prepared `tokenizer` and `caption_tables`, which are used if they exist.
        environment: name of the environment, to be shown.
        split: split to read; None for `train`, or the first one that the source has.
        samples: number of samples.
        seed: None reads the first samples; a number spreads them over the split.

    Raises:
        ConfigError: the configuration is wrong, or the source cannot be read.
        StorageError: a remote file cannot be read.
    """
    parameters = loader["parameters"]
    refuse_secrets(parameters, "")
    prepare, train = typed("prepare", parameters["prepare"]), typed("train", parameters["train"])
    storage = brief(_storage(loader, parameters), samples, prepare.limits)
    with temporary_folder() as work:
        source = _source(parameters["prepare"], storage, work, paths["caption_tables"], seed)
        chosen = _choose_split(split, source.splits)
        seen = look_at(source, chosen, samples, prepare.rules, seed)
        made, described = _tokenizer(prepare.tokenizer, paths["tokenizer"], seen, work)
    readings = SampleReadings(CaptionReader(train.captions, made, train.seed, train.method))
    cards = [make_card(sample, readings, source.limits) for sample in seen]
    addresses = ", ".join(prepare.source.addresses)
    how = "the first samples" if seed is None else f"samples spread over the split, seed {seed}"
    fragment = _fragment(train.captions.fragment)
    facts = [
        ("environment", environment),
        ("source", f"{prepare.source.kind}{f', {addresses}' if addresses else ''}"),
        ("split", f"{chosen}, {how}"),
        ("tokenizer", described),
        (
            "method",
            f"{train.method}; fragment: {fragment}; rows of {train.captions.context_length} ids, targets of "
            f"{train.captions.target_length}",
        ),
    ]
    if isinstance(source, BriefRecaptionSource) and source.brief is not None:
        rows = f"the {'first ' if not source.brief.ended else ''}{source.brief.read_rows:,} rows"
        facts.append(("caption tables", f"{rows} were searched; `prepare` searches all of them"))
    target = train.captions.target_captioner
    captioners = [*(train.captions.captioners or ()), *([] if target is None else [target])]
    return Look(facts, cards, find_problems(cards, source.fields.needed, captioners), fragment)


def _source(parameters: dict[str, Any], storage: FirstSamples, work: Path, tables: Path, seed: int | None) -> Source:
    """Return the source; of those that would read whole tables or many files first, a brief form."""
    prepare = typed("prepare", parameters)
    config, limits = prepare.source, prepare.limits
    if config.kind == "recaption":
        return BriefRecaptionSource(config.recaption, storage, work, tables, limits)
    if config.kind == "parquet":
        return BriefParquetSource(config.parquet, storage, limits, seed)
    source: Source = make_source(parameters, storage, tables)
    return source


def _choose_split(wanted: str | None, splits: Sequence[Split]) -> Split:
    for split in splits:
        if split == wanted or (wanted is None and split == "train"):
            return split
    if wanted is None:
        return splits[0]
    raise ConfigError(f"--split {wanted}: the source has no such split; it has: {', '.join(splits)}")


def _storage(loader: Any, parameters: dict[str, Any]) -> Any:
    credentials = environments.load_or_empty(loader, "credentials")
    local = environments.local_credentials(loader)
    options = [local.get("storage"), credentials.get("storage")]
    # The folder of cached copies is not used.
    return RemoteDataset(parameters.get("storage", {}), options, lambda: Path("shard_cache")).load().storage


def _tokenizer(config: Any, prepared: Path, seen: Sequence[SeenSample], work: Path) -> tuple[Tokenizer, str]:
    """Return the tokenizer to show ids of, and which one it is."""
    if config.kind == "wordpiece":
        return WordPieceTokenizer.from_vocab(config.vocabulary_file), f"wordpiece, {redact(config.vocabulary_file)}"
    if config.kind == "clip_bpe":
        return ClipBpeTokenizer.from_merges(config.vocabulary_file), f"clip_bpe, {redact(config.vocabulary_file)}"
    if (prepared / CONFIG_FILE).is_file():
        found = load_tokenizer(prepared)
        return found, f"the prepared one in {prepared}, {found.vocab_size} ids"
    texts = list(_texts(seen))
    if not any(character.isalnum() for text in texts for character in text):
        return WordPieceTokenizer(SPECIALS), "none: no sample has a word to train it on"
    trained = train_wordpiece(texts, config.vocabulary_size, work / "tokenizer")
    return trained, (
        f"not prepared yet; trained on the captions of these samples alone, {trained.vocab_size} ids; those of prepare will differ"
    )


def _texts(seen: Sequence[SeenSample]) -> Iterator[str]:
    for sample in seen:
        if sample.record is not None and sample.fate != "skipped":
            yield from sample.record.web_captions
            yield from (caption.text for caption in sample.record.synthetic_captions)


def _fragment(config: FragmentConfig) -> str:
    return config.strategy if config.tokens is None else f"{config.strategy} of {config.tokens} ids"
