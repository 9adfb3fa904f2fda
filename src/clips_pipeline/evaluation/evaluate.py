"""Evaluation of one model on one set: retrieval, zero-shot accuracy, captioning, probes and compositionality.

Shapes: N images, M captions, C classes, E embedding width, B batch, L context length, T target length.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clips_pipeline.config import ConfigError, to_mapping
from clips_pipeline.data.shards.index import load_classes, load_index
from clips_pipeline.data.shards.reader import eval_samples
from clips_pipeline.data.shards.records import Record
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.shards.splits import Classes
from clips_pipeline.evaluation.config import CompositionalityConfig, EvaluationConfig
from clips_pipeline.evaluation.example_selection import select_examples, select_questions
from clips_pipeline.evaluation.inference.embed import Embedder, TowerEmbedder
from clips_pipeline.evaluation.inference.embedding_cache import NO_CACHE, EmbeddingCache
from clips_pipeline.evaluation.inference.image_pass import ImagePass, run_image_pass
from clips_pipeline.evaluation.metric_keys import full_key
from clips_pipeline.evaluation.metrics.caption_questions import answer_questions
from clips_pipeline.evaluation.metrics.caption_scores import CaptionScore, corpus_scores, score_captions
from clips_pipeline.evaluation.metrics.compositionality import measure_compositionality
from clips_pipeline.evaluation.metrics.linear_probe import check_probe_data, probe
from clips_pipeline.evaluation.metrics.pair_files import read_entries
from clips_pipeline.evaluation.metrics.retrieval import (
    EncodeTexts,
    FloatArray,
    RetrievalResult,
    chance_recall,
    rank_captions,
)
from clips_pipeline.evaluation.metrics.zero_shot import (
    TOP5_FROM_CLASSES,
    Confusion,
    chance_accuracy,
    class_embeddings,
    classify,
    confusion,
    imagenet_classes,
)
from clips_pipeline.evaluation.model_loading import load_embedder
from clips_pipeline.evaluation.per_item.item_rows import add_probe_results, item_rows
from clips_pipeline.evaluation.per_item.items import items_from_rows
from clips_pipeline.evaluation.report_data import ReportData
from clips_pipeline.evaluation.results import MODEL, SET_VERSION, EvaluationResult, ItemRow
from clips_pipeline.evaluation.split_check import check_expected_sizes, check_missing_captions
from clips_pipeline.interop.digest import model_digest
from clips_pipeline.io.digests import json_sha256
from clips_pipeline.progress import Stage

Read = Callable[[], Iterable[Record]]


def evaluate_model(
    model_folder: Path,
    shards: Path,
    config: EvaluationConfig | None = None,
    remote: ShardCache | None = None,
    cache_dir: Path | None = None,
) -> EvaluationResult:
    """Evaluate a model on a split of prepared shards.

    Args:
        model_folder: exported model folder, or another input of `load_embedder`.
        shards: folder that `prepare` wrote: `index.json`, tar files, and `classes.json` if samples have labels.
        config: parameters of the evaluation.
        remote: cache for shards in remote storage.
        cache_dir: folder of the embedding cache; None disables it.

    Raises:
        ConfigError: there is no model or no such split, the split has an unexpected size, only some images have captions, an
            image cannot be decoded, or a metric is NaN or infinite.
    """
    config = config or EvaluationConfig()
    # Check everything that can be checked before the model runs.
    entries = read_entries(config.compositionality)
    classes = _classes(shards, config)
    if config.probe_samples:
        check_probe_data(shards, config.split)
    index = load_index(shards)
    if config.expected.images is not None:
        check_expected_sizes(config, index.split_samples(config.split))
    embedder = load_embedder(model_folder, config)
    if config.compositionality != CompositionalityConfig() and not embedder.reads_text:
        raise ConfigError(
            "evaluate.compositionality: the sets compare texts, and the model has no text tower (train.method captioning); "
            "remove the key"
        )
    origin = {SET_VERSION: index.split_version(config.split), MODEL: model_digest(model_folder)}
    cache = EmbeddingCache(cache_dir, origin[MODEL], embedder.device.type, origin[SET_VERSION])

    def read() -> Iterable[Record]:
        return eval_samples(shards, config.split, remote=remote)

    with Stage("evaluate", index.split_samples(config.split), "images") as stage:
        result = evaluate_records(embedder, read, classes, config, cache, stage)
        stage.update(index.split_samples(config.split))  # also where the cache had them
        on_entries = measure_compositionality(embedder, entries, cache)
        if config.probe_samples:
            stage.note = "linear probe"
            right = probe(embedder, shards, config.split, config.probe_samples, remote, cache)
        stage.note = ""
    metrics, chance = on_entries.metrics, on_entries.chance
    if config.probe_samples:
        train_versions = [index.split_version(name) for name in ("train", "validation")]
        add_probe_results(result.per_item, *right, _digest([config.probe_samples, *train_versions]))
        names = ("linear_accuracy@1", "knn_accuracy@1")
        items = items_from_rows(result.per_item)
        metrics |= {f"probe/{config.set_name}/{name}": items.metrics[f"probe/{name}"].value() for name in names}
        if classes is not None:
            chance |= {f"probe/{config.set_name}/{name}": 1 / len(classes.names) for name in names}
    for row in result.per_item:
        row |= origin
    for row in on_entries.rows:
        row[MODEL] = origin[MODEL]
    report_data = replace(result.report_data, chance=result.report_data.chance | chance)
    return replace(result, metrics=result.metrics | metrics, compositionality=on_entries.rows, report_data=report_data)


def evaluate_records(
    embedder: TowerEmbedder,
    read: Read,
    classes: Classes | None,
    config: EvaluationConfig,
    cache: EmbeddingCache = NO_CACHE,
    stage: Stage | None = None,
) -> EvaluationResult:
    """Evaluate on any iterable of samples. Metrics that the samples do not allow are absent from the result.

    Args:
        embedder: the model with its transform and tokenizer.
        read: yields the samples. It is called up to three times if examples are requested and must yield the same samples in
            the same order.
        classes: classes for zero-shot classification; without classes or labels there is no accuracy.
        config: parameters of the evaluation. Batch size and device are ignored here; the split is used in messages.
        cache: embedding cache of this model.
        stage: counts the images.

    Raises:
        ConfigError: no samples, unexpected numbers of samples or captions, captions of only some samples, or no valid metric.
    """
    encode_texts: EncodeTexts = partial(cache.embed_texts, embedder.texts)
    image_pass = _image_pass(embedder, read, config, cache, stage)
    if not image_pass.keys:
        raise ConfigError(f"evaluate: the {config.split} split is empty; prepare shards that have it")
    check_missing_captions(config, image_pass.keys, image_pass.owners)
    check_missing_captions(config, image_pass.keys, image_pass.long_owners, "long")
    check_expected_sizes(config, len(image_pass.keys), len(image_pass.texts))
    image_NE = np.concatenate(image_pass.embeddings)
    chance: dict[str, float] = {}
    retrievals: dict[str, RetrievalResult] = {}
    if embedder.reads_text:
        retrievals = _rank_captions(encode_texts, image_NE, image_pass, config.set_name)
    for kind, retrieval in retrievals.items():
        chance |= _keyed(f"{kind}/{config.set_name}", chance_recall(retrieval.owners, len(image_NE)))

    named = classes if embedder.reads_text else None
    zero_shot, confusion_counts = _zero_shot(encode_texts, image_NE, image_pass.labels, named)
    if classes is not None and zero_shot:
        chance |= _keyed(f"zero_shot/{config.set_name}", chance_accuracy(len(classes.names)))

    # Teacher forcing makes the task easier: the loss gets a key of its own, since the two must not be compared.
    captioner = embedder.model.config.captioner if isinstance(embedder, Embedder) else None
    teacher_forced = captioner is not None and captioner.inputs == "tokens"
    if isinstance(embedder, Embedder) and any(image_pass.tokens):
        name = f"caption/{config.set_name}/{'teacher_forced_loss' if teacher_forced else 'loss'}"
        # Loss of a uniform distribution over the vocabulary.
        chance[name] = float(np.log(embedder.tokenizer.vocab_size))
    scores: list[CaptionScore] = []
    if image_pass.written:
        scores = score_captions(image_pass.written, image_pass.references)
        # Chance level: score each caption against the references of the next image.
        others = [*image_pass.references[1:], image_pass.references[0]]
        chance |= _keyed(f"caption/{config.set_name}", corpus_scores(score_captions(image_pass.written, others)))
    asked = image_pass.questions if embedder.reads_text else []
    answers = answer_questions(encode_texts, image_NE, asked, image_pass.question_owners[: len(asked)])
    chance |= answers.chance(config.set_name)
    settings: dict[str, Any] = {"teacher_forced": teacher_forced}
    if scores:
        settings["caption_references"] = config.caption_references
    if classes is not None and zero_shot:
        settings["zero_shot_terms"] = _digest(to_mapping(classes))
    rows = item_rows(image_pass, retrievals, zero_shot, scores, settings)
    answers.add_to(rows)
    metrics = _metrics(rows, classes, config)
    names = [None if label is None or classes is None else classes.names[label] for label in image_pass.labels]
    report_data = ReportData(config.set_name, chance, confusion=confusion_counts)
    shown = select_examples(
        report_data, image_pass, names, image_NE, retrievals.get("retrieval"), embedder, read, config.examples
    )
    shown = replace(shown, questions=select_questions(answers, read, config.examples))
    return EvaluationResult(config.set_name, metrics, rows, shown)


def _metrics(rows: Sequence[ItemRow], classes: Classes | None, config: EvaluationConfig) -> dict[str, float]:
    values = items_from_rows(rows).values()
    if classes is not None and len(classes.names) < TOP5_FROM_CLASSES:
        values.pop("zero_shot/accuracy@5", None)
    if not values:
        raise ConfigError(
            f"evaluate: the {config.split} split has neither captions nor class labels, so no metric can be computed; prepare a "
            "set that has them"
        )
    return {full_key(name, config.set_name): value for name, value in values.items()}


def _image_pass(
    embedder: TowerEmbedder, read: Read, config: EvaluationConfig, cache: EmbeddingCache, stage: Stage | None
) -> ImagePass:
    name = (
        f"images {cache.samples} captioning {config.captioning} {config.caption_references} long {config.long_captions}"
    )
    return ImagePass.from_arrays(
        cache.load_or_compute(name, lambda: run_image_pass(embedder, read(), config, stage).to_arrays())
    )


def _rank_captions(
    encode_texts: EncodeTexts, image_NE: FloatArray, image_pass: ImagePass, set_name: str
) -> dict[str, RetrievalResult]:
    """Return retrieval results by kind, for the kinds of captions that the samples have."""
    texts_and_owners = {
        "retrieval": (image_pass.texts, image_pass.owners),
        "retrieval_long": (image_pass.long_texts, image_pass.long_owners),
    }
    return {
        kind: rank_captions(f"{kind}/{set_name}", image_NE, texts, owners, encode_texts)
        for kind, (texts, owners) in texts_and_owners.items()
        if texts
    }


def _zero_shot(
    encode_texts: EncodeTexts, image_NE: FloatArray, labels: Sequence[int | None], classes: Classes | None
) -> tuple[dict[int, int], Confusion | None]:
    """Return image number to rank for the images with a label, and the confusion counts."""
    label_of = {i: label for i, label in enumerate(labels) if label is not None}
    if classes is None or not label_of:
        return {}, None
    class_CE = class_embeddings(encode_texts, classes.names, classes.templates)
    label_N = np.array(list(label_of.values()))
    rank_N, predicted_N = classify(image_NE[list(label_of)], class_CE, label_N)
    rank_of = {i: int(rank) for i, rank in zip(label_of, rank_N, strict=True)}
    return rank_of, confusion(label_N, predicted_N, classes.names)


def _classes(shards: Path, config: EvaluationConfig) -> Classes | None:
    own = load_classes(shards)
    if config.class_names == "set":
        return own
    imagenet = imagenet_classes()
    if own is not None and len(own.names) != len(imagenet.names):
        raise ConfigError(
            f"evaluate.class_names: {shards} has {len(own.names)} classes, ImageNet has {len(imagenet.names)}; set it "
            "to `set`"
        )
    return imagenet


def _digest(values: object) -> str:
    return json_sha256(values)[:16]


def _keyed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in metrics.items()}
