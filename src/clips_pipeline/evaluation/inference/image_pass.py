"""One pass over the images of a set: embeddings, caption loss and written captions, and the texts of each sample.

Shapes: B batch, C H W image, L context length, T target length.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.transforms import UndecodableImageError
from clips_pipeline.data.shards.records import CaptionQuestion, Record
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.inference.caption_decoding import (
    caption_nats,
    decode_captions_beam,
    decode_captions_parallel,
)
from clips_pipeline.evaluation.inference.embed import (
    Embedder,
    TowerEmbedder,
    iterate_batches,
    open_image,
    retrieval_texts,
)
from clips_pipeline.evaluation.inference.embedding_cache import Array
from clips_pipeline.evaluation.metrics.retrieval import FloatArray
from clips_pipeline.models.sizes import CaptionerConfig
from clips_pipeline.progress import Stage
from clips_pipeline.text.caption_rows import CaptionConfig, CaptionReader

_AS_ARRAYS = ("embeddings", "nats")  # fields of `ImagePass`; the other fields are cached as JSON


@dataclass
class ImagePass:
    """Results of one pass over N images.

    Attributes:
        keys, labels: of each image; None without a label.
        texts: captions for retrieval of all images.
        owners: for each of `texts`, the number of its image.
        long_texts, long_owners: the same for the synthetic captions; empty unless requested.
        questions, question_owners: the compositional questions of all images, and for each the number of its image.
        embeddings: batches of image embeddings with unit norm.
        nats, tokens: caption loss of each image, summed, and its number of target tokens; 0 without a captioner.
        captioned: numbers of the images with written captions.
        written, references: of each of `captioned`, the written caption and its reference captions.
    """

    keys: list[str] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    long_texts: list[str] = field(default_factory=list)
    long_owners: list[int] = field(default_factory=list)
    questions: list[CaptionQuestion] = field(default_factory=list)
    question_owners: list[int] = field(default_factory=list)
    embeddings: list[FloatArray] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    captioned: list[int] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    references: list[list[str]] = field(default_factory=list)

    def to_arrays(self) -> dict[str, Array]:
        """Return the arrays for `EmbeddingCache`; `from_arrays` is the inverse."""
        names = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in _AS_ARRAYS}
        text = np.frombuffer(json.dumps(names).encode(), dtype=np.uint8)
        image_NE = np.concatenate(self.embeddings) if self.embeddings else np.zeros((0, 0), np.float32)
        return {"embeddings": image_NE, "nats": np.array(self.nats, np.float64), "rest": text}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> "ImagePass":
        """Build from the result of `to_arrays`."""
        rest = json.loads(arrays["rest"].tobytes())
        # Entries of earlier releases lack them; samples that have some have another digest.
        rest["questions"] = [CaptionQuestion(*texts) for texts in rest.get("questions", [])]
        return cls(embeddings=[arrays["embeddings"]], nats=arrays["nats"].tolist(), **rest)


def run_image_pass(
    embedder: TowerEmbedder, records: Iterable[Record], config: EvaluationConfig, stage: Stage | None = None
) -> ImagePass:
    """Embed every image and collect its texts. With a captioner, also compute caption losses and write captions.

    Args:
        embedder: the model.
        records: the samples.
        config: what is computed.
        stage: counts the images.

    Raises:
        ConfigError: an image cannot be decoded.
    """
    image_pass = ImagePass()
    for batch in iterate_batches(records, embedder.batch_size):
        for record in batch:
            texts = retrieval_texts(record)
            image_pass.texts += texts
            image_pass.owners += [len(image_pass.keys)] * len(texts)
            long_texts = _synthetic_texts(record) if config.long_captions else []
            image_pass.long_texts += long_texts
            image_pass.long_owners += [len(image_pass.keys)] * len(long_texts)
            image_pass.questions += record.questions
            image_pass.question_owners += [len(image_pass.keys)] * len(record.questions)
            image_pass.keys.append(record.key)
            image_pass.labels.append(record.label)
        images_BCHW = embedder.open_and_stack(batch, _decode)
        image_pass.embeddings.append(embedder.image_batch(images_BCHW))
        if isinstance(embedder, Embedder) and embedder.model.config.captioner is not None:
            _caption_batch(embedder, embedder.model.config.captioner, batch, images_BCHW, config, image_pass)
        else:
            image_pass.nats += [0.0] * len(batch)
            image_pass.tokens += [0] * len(batch)
        if stage is not None:
            stage.advance(len(batch))
    return image_pass


def _caption_batch(
    embedder: Embedder,
    captioner: CaptionerConfig,
    batch: Sequence[Record],
    images_BCHW: Tensor,
    config: EvaluationConfig,
    image_pass: ImagePass,
) -> None:
    """Add the caption losses of a batch and the captions written for it to `image_pass`."""
    lengths = CaptionConfig(context_length=embedder.model.config.text.context_length, target_length=captioner.queries)
    reader = CaptionReader(lengths, embedder.tokenizer, seed=0)
    # The first caption of each kind, so that the loss does not depend on a draw.
    rows = [reader.read(r.web_captions[:1], r.synthetic_captions[:1], epoch=0, key=r.key) for r in batch]
    web_ids_BL = torch.tensor([row.web for row in rows], device=embedder.device)
    target_ids_BT = torch.tensor([row.target for row in rows], device=embedder.device)
    nats_B, tokens_B = caption_nats(embedder.model, images_BCHW, web_ids_BL, target_ids_BT)
    # An image without a synthetic caption has no target.
    has_B = torch.tensor([bool(record.synthetic_caption.strip()) for record in batch], device=nats_B.device)
    image_pass.nats += (nats_B * has_B).tolist()
    image_pass.tokens += (tokens_B * has_B).tolist()
    human = config.caption_references == "human"
    references = [[t for t in r.captions if t.strip()] if human else _synthetic_texts(r) for r in batch]
    scored_B = torch.tensor([bool(texts) for texts in references], device=nats_B.device)
    # The captions of method coca are not scored: it is judged by its towers, and writes word by word, which takes long.
    writes = captioner.inputs == "queries" or not embedder.reads_text
    if config.captioning and writes and scored_B.any():
        first = len(image_pass.keys) - len(batch)
        image_pass.captioned += [first + i for i, texts in enumerate(references) if texts]
        decode = decode_captions_parallel if captioner.inputs == "queries" else partial(decode_captions_beam, width=1)
        image_pass.written += decode(embedder.model, images_BCHW[scored_B], web_ids_BL[scored_B], embedder.tokenizer)
        image_pass.references += [texts for texts in references if texts]


def _synthetic_texts(record: Record) -> list[str]:
    return [text for text, _ in record.synthetic_captions if text.strip()]


def _decode(record: Record) -> Image.Image:
    try:
        return open_image(record.image, record.limits)
    except UndecodableImageError as error:
        raise ConfigError(
            f"evaluate: the image of {record.key} cannot be decoded ({error}); repair the file, or leave it out"
        ) from None
