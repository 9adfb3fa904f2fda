"""Retrieval on a few hundred samples while a model trains."""

from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from clips_pipeline.evaluation.embed import Embedder, evaluation_mode, in_batches, open_image, retrieval_texts
from clips_pipeline.evaluation.retrieval import recall_metrics, retrieval_ranks
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.shards.reader import RemoteShards, eval_samples
from clips_pipeline.shards.transforms import ImageConfig, eval_image
from clips_pipeline.text.tokenizer import Tokenizer


def quick_retrieval(
    model: ClipsModel,
    shards_dir: Path,
    split: str,
    tokenizer: Tokenizer,
    images: ImageConfig,
    *,
    batch_size: int = 128,
    limit: int | None = None,
    remote: RemoteShards | None = None,
) -> dict[str, float]:
    """Recall of human captions (web captions where there are none), which no choice of fragments can favour.

    Args:
        model: stays where it is, and in the mode it is in.
        shards_dir: of `prepare`.
        split: which samples.
        tokenizer: the model's.
        images: resolution and normalisation.
        batch_size: images, or texts, per forward pass.
        limit: use only the first samples; recall is higher among fewer.
        remote: where shards that are not on this machine are copied to.

    Returns:
        As `recall_metrics`: `mean_recall@1`, and recall at 1, 5 and 10 both ways.

    Raises:
        ValueError: the split is empty, or the model gives NaN.
    """
    device = next(model.parameters()).device
    texts: list[str] = []
    owners: list[int] = []
    embeddings = []
    images_seen = 0
    transform = partial(eval_image, config=images)
    with evaluation_mode(model):
        embedder = Embedder(model, transform, tokenizer, batch_size=batch_size, device=device)
        for batch in in_batches(islice(eval_samples(shards_dir, split, remote=remote), limit), batch_size):
            embeddings.append(embedder.image_batch(embedder.stack(open_image(record.image) for record in batch)))
            for record in batch:
                found = retrieval_texts(record)
                owners += [images_seen] * len(found)
                texts += found
                images_seen += 1
        if not texts:
            raise ValueError(f"the {split} split of {shards_dir} is empty")
        text_ME = embedder.texts(texts)
    return recall_metrics(retrieval_ranks(np.concatenate(embeddings), text_ME, np.array(owners)))
