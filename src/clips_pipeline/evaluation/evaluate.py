"""Everything that is measured on one model and one set: retrieval, zero-shot accuracy, caption loss.

Legend of suffixes: N images, M captions, C classes, E embedding width, B batch, L context length, T target length.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
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
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.example_selection import select_examples
from clips_pipeline.evaluation.inference.embed import Embedder, TowerEmbedder
from clips_pipeline.evaluation.inference.embedding_cache import NO_CACHE, EmbeddingCache
from clips_pipeline.evaluation.inference.image_pass import ImagePass, run_image_pass
from clips_pipeline.evaluation.metric_keys import full_key
from clips_pipeline.evaluation.metrics.caption_scores import CaptionScore, corpus_scores, score_captions
from clips_pipeline.evaluation.metrics.compositionality import measure_compositionality, read_entries
from clips_pipeline.evaluation.metrics.linear_probe import Flags, check_probe_data, probe
from clips_pipeline.evaluation.metrics.retrieval import (
    NO_CAPTION,
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
from clips_pipeline.evaluation.per_item.items import items_from_rows
from clips_pipeline.evaluation.report_data import ReportData
from clips_pipeline.evaluation.results import MODEL, SET_VERSION, EvaluationResult, ItemRow
from clips_pipeline.evaluation.split_check import check_expected_sizes, check_missing_captions
from clips_pipeline.interop.digest import model_digest

Read = Callable[[], Iterable[Record]]


def evaluate_model(
    model_folder: Path,
    shards: Path,
    config: EvaluationConfig | None = None,
    remote: ShardCache | None = None,
    kept: Path | None = None,
) -> EvaluationResult:
    """Evaluate a model on a split of prepared shards.

    Args:
        model_folder: what `train` exported, or what else `load_embedder` takes.
        shards: what `prepare` wrote: `index.json`, tar files, and `classes.json` where samples carry labels.
        config: what to look at.
        remote: where shards that are not on this machine are copied to.
        kept: folder of embeddings from earlier evaluations, and for this one's; None keeps nothing.

    Raises:
        ConfigError: no model, no such split or one of another size than expected, images without captions among others with
            them, a picture that cannot be decoded, or a metric that is NaN or infinite.
    """
    config = config or EvaluationConfig()
    # All that can be refused before the model runs.
    entries = read_entries(config.compositionality)
    classes = _classes(shards, config)
    if config.probe_samples:
        check_probe_data(shards, config.split)
    index = load_index(shards)
    if config.expected.images is not None:
        check_expected_sizes(config, index.split_samples(config.split))
    embedder = load_embedder(model_folder, config)
    origin = {SET_VERSION: index.split_version(config.split), MODEL: model_digest(model_folder)}
    store = EmbeddingCache(kept, origin[MODEL], embedder.device.type, origin[SET_VERSION])

    def read() -> Iterable[Record]:
        return eval_samples(shards, config.split, remote=remote)

    result = evaluate_records(embedder, read, classes, config, store)
    beside = measure_compositionality(embedder, entries, store)
    metrics, chance = beside.metrics, beside.chance
    if config.probe_samples:
        right = probe(embedder, shards, config.split, config.probe_samples, remote, store)
        learned = [index.split_version(name) for name in ("train", "validation")]
        add_probe_results(result.per_item, *right, _digest([config.probe_samples, *learned]))
        names = ("linear_accuracy@1", "knn_accuracy@1")
        items = items_from_rows(result.per_item)
        metrics |= {f"probe/{config.set_name}/{name}": items.metrics[f"probe/{name}"].value() for name in names}
        if classes is not None:
            chance |= {f"probe/{config.set_name}/{name}": 1 / len(classes.names) for name in names}
    for row in result.per_item:
        row |= origin
    for row in beside.rows:
        row[MODEL] = origin[MODEL]
    report_data = replace(result.report_data, chance=result.report_data.chance | chance)
    return replace(result, metrics=result.metrics | metrics, compositionality=beside.rows, report_data=report_data)


def evaluate_records(
    embedder: TowerEmbedder,
    read: Read,
    classes: Classes | None,
    config: EvaluationConfig,
    kept: EmbeddingCache = NO_CACHE,
) -> EvaluationResult:
    """Evaluate on samples from anywhere. What the samples do not allow to measure is absent from the metrics.

    Args:
        embedder: the model with its transform and tokenizer.
        read: gives the samples; called twice when examples are wanted, and must give the same ones in the same order.
        classes: for zero-shot; without them, or where no sample has a label, there is no accuracy.
        config: what to measure and to expect; its batch size and device are not looked at here, its split names the samples
            in messages.
        kept: embeddings of this model, from before and from now on.

    Raises:
        ConfigError: no sample, another number of them or of captions than expected, some samples without captions, nothing
            that could be measured on them, or a metric that is NaN or infinite.
    """
    encode_texts: EncodeTexts = partial(kept.texts, embedder.texts)
    what = (
        f"images {kept.samples} captioning {config.captioning} {config.caption_references} long {config.long_captions}"
    )
    found = ImagePass.from_arrays(kept.arrays(what, lambda: run_image_pass(embedder, read(), config).to_arrays()))
    if not found.keys:
        raise ConfigError(f"evaluate: the {config.split} split is empty; prepare shards that have it")
    check_missing_captions(config, found.keys, found.owners)
    check_missing_captions(config, found.keys, found.long_owners, "long")
    check_expected_sizes(config, len(found.keys), len(found.texts))
    image_NE = np.concatenate(found.embeddings)
    chance: dict[str, float] = {}
    ranked: dict[str, RetrievalResult] = {}
    for kind, texts, owners in (
        ("retrieval", found.texts, found.owners),
        ("retrieval_long", found.long_texts, found.long_owners),
    ):
        if texts:
            name = f"{kind}/{config.set_name}"
            ranked[kind] = rank_captions(name, image_NE, texts, owners, encode_texts)
            chance |= _keyed(name, chance_recall(ranked[kind].owners, len(image_NE)))

    zero_shot, confused = _zero_shot(encode_texts, image_NE, found.labels, classes)
    if classes is not None and zero_shot:
        chance |= _keyed(f"zero_shot/{config.set_name}", chance_accuracy(len(classes.names)))

    # A captioner that is told the words before has an easier task: its loss must not be compared with the other's.
    captioner = embedder.model.config.captioner if isinstance(embedder, Embedder) else None
    forced = captioner is not None and captioner.inputs == "tokens"
    if isinstance(embedder, Embedder) and any(found.tokens):
        name = f"caption/{config.set_name}/{'teacher_forced_loss' if forced else 'loss'}"
        # A model that finds every piece equally likely.
        chance[name] = float(np.log(embedder.tokenizer.vocab_size))
    scores: list[CaptionScore] = []
    if found.written:
        scores = score_captions(found.written, found.references)
        # What captions of these images would score that are right for another of them.
        others = [*found.references[1:], found.references[0]]
        chance |= _keyed(f"caption/{config.set_name}", corpus_scores(score_captions(found.written, others)))
    settings: dict[str, Any] = {"teacher_forced": forced}
    if scores:
        settings["caption_references"] = config.caption_references
    if classes is not None and zero_shot:
        settings["zero_shot_terms"] = _digest(to_mapping(classes))
    rows = _item_rows(found, ranked, zero_shot, scores, settings)
    measured = items_from_rows(rows).values()
    if classes is not None and len(classes.names) < TOP5_FROM_CLASSES:
        measured.pop("zero_shot/accuracy@5", None)
    if not measured:
        raise ConfigError(
            f"evaluate: the {config.split} split has neither captions nor labelled classes; nothing can be measured on it"
        )
    metrics = {full_key(name, config.set_name): value for name, value in measured.items()}
    names = [None if label is None or classes is None else classes.names[label] for label in found.labels]
    asked = ranked.get("retrieval")
    plain = ReportData(config.set_name, chance, confusion=confused)
    shown = select_examples(plain, found, names, image_NE, asked, embedder, read, config.examples)
    return EvaluationResult(config.set_name, metrics, rows, shown)


def _zero_shot(
    encode_texts: EncodeTexts, image_NE: FloatArray, labels: Sequence[int | None], classes: Classes | None
) -> tuple[dict[int, int], Confusion | None]:
    """Image number to rank, for the images that have a label, and what they are taken for."""
    asked = {i: label for i, label in enumerate(labels) if label is not None}
    if classes is None or not asked:
        return {}, None
    class_CE = class_embeddings(encode_texts, classes.names, classes.templates)
    label_N = np.array(list(asked.values()))
    rank_N, found_N = classify(image_NE[list(asked)], class_CE, label_N)
    return {i: int(rank) for i, rank in zip(asked, rank_N, strict=True)}, confusion(label_N, found_N, classes.names)


def _item_rows(
    found: ImagePass,
    ranked: Mapping[str, RetrievalResult],
    zero_shot: Mapping[int, int],
    scores: Sequence[CaptionScore],
    settings: Mapping[str, Any],
) -> list[ItemRow]:
    """One row an image; what was not measured on the set has no column, save what rows have always had.

    Args:
        found: the N images.
        ranked: retrieval by kind.
        zero_shot: image to rank.
        scores: of the captions written, in the order of `found.captioned`.
        terms: columns that are the same for all images: on what terms metrics were asked.
    """
    rows: list[ItemRow] = [
        {
            "key": key,
            "image_to_text_rank": None,
            "text_to_image_ranks": [],
            "label": label,
            "zero_shot_rank": zero_shot.get(i),
            "caption_nats": nats,
            "caption_tokens": tokens,
            **settings,
        }
        for i, (key, label, nats, tokens) in enumerate(
            zip(found.keys, found.labels, found.nats, found.tokens, strict=True)
        )
    ]
    for kind, asked in ranked.items():
        prefix = "long_" if kind == "retrieval_long" else ""
        for row, rank in zip(rows, asked.ranks.image_to_text.tolist(), strict=True):
            row[f"{prefix}image_to_text_rank"] = None if rank == NO_CAPTION else rank
            row[f"{prefix}text_to_image_ranks"] = []
        for owner, rank in zip(asked.owners.tolist(), asked.ranks.text_to_image.tolist(), strict=True):
            rows[owner][f"{prefix}text_to_image_ranks"].append(rank)
    if scores:
        of_image = dict(zip(found.captioned, scores, strict=True))
        for i, row in enumerate(rows):
            for one in fields(CaptionScore):
                value = getattr(of_image[i], one.name) if i in of_image else None
                row[f"caption_{one.name}"] = list(value) if isinstance(value, tuple) else value
    return rows


def add_probe_results(rows: Sequence[ItemRow], linear_right_M: Flags, knn_right_M: Flags, settings: str) -> None:
    """Add whether the classifiers were right about each image; None where it has no label, so that none was asked.

    Args:
        rows: of all images.
        linear_right_M: of those with a label.
        knn_right_M: likewise.
        terms: of the samples that were learned from.
    """
    right = zip(linear_right_M.tolist(), knn_right_M.tolist(), strict=True)
    for row in rows:
        linear, knn = (None, None) if row["label"] is None else next(right)
        row |= {"linear_right": linear, "knn_right": knn, "probe_terms": settings}


def _classes(shards: Path, config: EvaluationConfig) -> Classes | None:
    own = load_classes(shards)
    if config.class_names == "set":
        return own
    imagenet = imagenet_classes()
    if own is not None and len(own.names) != len(imagenet.names):
        raise ConfigError(
            f"evaluate.class_names: {shards} has {len(own.names)} classes of its own, ImageNet has {len(imagenet.names)}; set it "
            "to set"
        )
    return imagenet


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _keyed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in metrics.items()}
