"""Retrieval, or the caption loss, on a few hundred held-out samples during training, distributed over all ranks.

Shapes: E embedding width; N images, M captions, of all ranks; R of one rank; B batch, L context length, T target length.
"""

import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from clips_pipeline.data.images.transforms import ImageConfig, eval_image
from clips_pipeline.data.shards.reader import ShardSet
from clips_pipeline.data.shards.records import Record, Skip
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.shards.unexpected import make_skip
from clips_pipeline.evaluation.inference.caption_decoding import caption_nats
from clips_pipeline.evaluation.inference.embed import (
    Embedder,
    decoding_threads,
    evaluation_mode,
    open_image,
    retrieval_texts,
)
from clips_pipeline.evaluation.metrics.retrieval import FloatArray, IntArray, recall_metrics, retrieval_ranks
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.text.caption_rows import CaptionConfig, CaptionReader
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

T = TypeVar("T")


def measure_retrieval(
    model: ClipsModel,
    shards_dir: Path,
    split: str,
    tokenizer: Tokenizer,
    images: ImageConfig,
    *,
    batch_size: int = 128,
    limit: int | None = None,
    remote: ShardCache | None = None,
    group: dist.ProcessGroup | None = None,
) -> dict[str, float]:
    """Compute recall with human captions (web captions if there are none), which is independent of the fragment strategy.

    Each rank embeds a contiguous range of whole batches; rank 0 ranks all rows. The batches do not depend on the number of
    ranks, so the metrics are those of one process.

    Args:
        model: the same on all ranks; its device and mode do not change.
        shards_dir: folder that `prepare` wrote.
        split: split to read.
        tokenizer: tokenizer of the model.
        images: resolution and normalization.
        batch_size: samples per batch of images, and texts per forward pass.
        limit: number of samples to use, from the start of the split; recall is higher on fewer samples.
        remote: cache for shards in remote storage.
        group: ranks that share the work, each of which calls this function; None for this process only.

    Returns:
        The metrics of `recall_metrics`, on every rank: `mean_recall@1`, and recall@1, @5 and @10 in both directions.

    Raises:
        ValueError: on all ranks, if the split is empty or the model returns NaN.
    """
    shards = ShardSet(shards_dir, split, max_open_files=1, remote=remote)
    places = range(min(sum(shards.samples), limit if limit is not None else sum(shards.samples)))
    with evaluation_mode(model):
        embedder = _embedder(model, images, tokenizer, batch_size)
        image_RE, text_RE, owner_R = _embed(embedder, shards, _batches_of_rank(places, batch_size, group))
    images_of, texts_of, owners_of = (_gather(rows, group) for rows in (image_RE, text_RE, owner_R))

    def metrics() -> dict[str, float]:
        text_ME = np.concatenate(texts_of)
        if not len(text_ME):
            raise ValueError(f"the {split} split of {shards_dir} is empty")
        # Owners count from the first image of their rank.
        before = np.cumsum([0, *(len(rows) for rows in images_of)])
        owner_M = np.concatenate([owner + first for owner, first in zip(owners_of, before, strict=False)])
        return recall_metrics(retrieval_ranks(np.concatenate(images_of), text_ME, owner_M))

    return _broadcast_result(metrics, group)


def measure_caption_loss(
    model: ClipsModel,
    shards_dir: Path,
    split: str,
    tokenizer: Tokenizer,
    images: ImageConfig,
    *,
    batch_size: int = 128,
    limit: int | None = None,
    remote: ShardCache | None = None,
    group: dist.ProcessGroup | None = None,
) -> dict[str, float]:
    """Compute the caption loss per token of the synthetic captions, for a model without a text tower.

    Args: as `measure_retrieval`.

    Returns:
        `caption_loss` in nats, on every rank.

    Raises:
        ValueError: on all ranks, if no sample has a synthetic caption or the model returns NaN.
    """
    device, captioner = next(model.parameters()).device, model.config.captioner
    if captioner is None:
        raise ValueError("the model has no captioner, so there is no caption loss")
    lengths = CaptionConfig(context_length=model.config.text.context_length, target_length=captioner.queries)
    reader = CaptionReader(lengths, tokenizer, seed=0, method="captioning")
    shards = ShardSet(shards_dir, split, max_open_files=1, remote=remote)
    places = range(min(sum(shards.samples), limit if limit is not None else sum(shards.samples)))
    sums_S: list[tuple[float, int]] = []
    with evaluation_mode(model):
        embedder = _embedder(model, images, tokenizer, batch_size)
        for batch in _batches_of_rank(places, batch_size, group):
            records, images_BCHW = _decode(embedder, shards.iterate(batch))
            rows = [
                reader.read(r.web_captions[:1], r.synthetic_captions[:1], epoch=0, key=r.key).target for r in records
            ]
            if records:
                target_BT = torch.tensor(rows, device=device)
                nats_B, tokens_B = caption_nats(model, images_BCHW.to(device), target_BT[:, :0], target_BT)
                sums_S.append((float(nats_B.sum()), int(tokens_B.sum())))
    parts = _gather(np.array(sums_S, np.float64).reshape(-1, 2), group)

    def metrics() -> dict[str, float]:
        nats, tokens = np.concatenate(parts).sum(axis=0)
        if not tokens or not np.isfinite(nats):
            raise ValueError(f"the {split} split of {shards_dir} gives the caption loss {nats} over {tokens:g} tokens")
        return {"caption_loss": float(nats / tokens)}

    return _broadcast_result(metrics, group)


def _embedder(model: ClipsModel, images: ImageConfig, tokenizer: Tokenizer, batch_size: int) -> Embedder:
    """Return the model on its device; on a GPU, the threads of this rank decode images."""
    device, transform = next(model.parameters()).device, partial(eval_image, config=images)
    threads = decoding_threads(device, torch.get_num_threads())
    return Embedder(model, transform, tokenizer, batch_size=batch_size, device=device, threads=threads)


def _batches_of_rank(places: range, batch_size: int, group: dist.ProcessGroup | None) -> list[range]:
    """Return the batches of this rank: contiguous, so that it reads few shards, and in the order of the ranks."""
    batches = [places[first : first + batch_size] for first in range(0, len(places), batch_size)]
    if group is None:
        return batches
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    return batches[rank * len(batches) // ranks : (rank + 1) * len(batches) // ranks]


def _embed(embedder: Embedder, shards: ShardSet, batches: list[range]) -> tuple[FloatArray, FloatArray, IntArray]:
    width = embedder.model.config.embed_dim
    image_RE: list[FloatArray] = [np.empty((0, width), np.float32)]
    text_RE: list[FloatArray] = [np.empty((0, width), np.float32)]
    owner_R: list[int] = []
    images = 0
    for places in batches:
        records, images_BCHW = _decode(embedder, shards.iterate(places))
        if not records:
            continue
        image_RE.append(embedder.image_batch(images_BCHW))
        texts = [(images + i, text) for i, record in enumerate(records) for text in retrieval_texts(record)]
        images += len(records)
        if texts:
            text_RE.append(embedder.texts(text for _, text in texts))
            owner_R += [owner for owner, _ in texts]
    return np.concatenate(image_RE), np.concatenate(text_RE), np.array(owner_R, np.int64)


def _decode(embedder: Embedder, records: Iterable[Record]) -> tuple[list[Record], Tensor]:
    """Return the samples with their transformed images; a training does not end for one that cannot be decoded."""

    def decode(record: Record) -> tuple[Record, Tensor | Skip]:
        try:
            return record, embedder.towers.image_transform(open_image(record.image, record.limits))
        except Exception as error:
            return record, make_skip(error, record.key)

    kept: list[Record] = []
    images_CHW: list[Tensor] = []
    for record, found in embedder.ahead(decode, records):
        if isinstance(found, Skip):
            log.warning("left out: %s %s: %s", found.reason, found.key, found.detail)
        else:
            kept.append(record)
            images_CHW.append(found)
    return kept, torch.stack(images_CHW) if images_CHW else torch.empty(0)


def _gather(rows_RX: npt.NDArray[Any], group: dist.ProcessGroup | None) -> list[npt.NDArray[Any]]:
    """Return the arrays of all ranks, in rank order, on rank 0 of `group`; an empty list on other ranks."""
    if group is None:
        return [rows_RX]
    parts: list[Any] | None = [None] * dist.get_world_size(group) if dist.get_rank(group) == 0 else None
    dist.gather_object(rows_RX, parts, group=group, group_dst=0)
    return parts or []


def _broadcast_result(work: Callable[[], T], group: dist.ProcessGroup | None) -> T:
    """Call `work` on rank 0 of `group` and return its result on every rank.

    Raises:
        ValueError: raised on every rank with the message of rank 0, so that no rank waits in a collective.
    """
    if group is None:
        return work()
    outcome: list[Any] = [None, None]
    if dist.get_rank(group) == 0:
        try:
            outcome[0] = work()
        except ValueError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome, group=group, group_src=0)
    if outcome[1] is not None:
        raise ValueError(outcome[1])
    found: T = outcome[0]
    return found
