"""Images and texts to embeddings, in batches.

Legend of suffixes: B batch, C H W image, L context length, E embedding width, N all inputs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clips_pipeline.data.images import formats
from clips_pipeline.data.images.transforms import UndecodableImageError
from clips_pipeline.data.shards.records import Record
from clips_pipeline.evaluation.metrics.retrieval import FloatArray
from clips_pipeline.interop.folder import Towers
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

T = TypeVar("T")
ImageTransform = Callable[[Image.Image], Tensor]
"""One picture to the (C, H, W) float tensor that `encode_image` takes."""


class TowerEmbedder:
    """Two towers that read in batches.

    Args:
        towers: their weights are moved to `device` and put into evaluation mode; there they stay.
        batch_size: inputs per forward pass.
        device: where the model runs.
    """

    def __init__(self, towers: Towers, *, batch_size: int = 64, device: str | torch.device = "cpu") -> None:
        towers.module.to(device).eval()
        self.towers, self.batch_size, self.device = towers, batch_size, torch.device(device)

    def images(self, images: Iterable[Image.Image]) -> FloatArray:
        """(N, E) embeddings of length one; no more than a batch of pictures is held at a time."""
        return _stack(self.image_batch(self.stack(batch)) for batch in iterate_batches(images, self.batch_size))

    def texts(self, texts: Iterable[str]) -> FloatArray:
        """(N, E) embeddings of length one; texts longer than the model's context are cut as in training."""
        return _stack(
            self.text_batch(self.towers.text_rows(batch)) for batch in iterate_batches(texts, self.batch_size)
        )

    def stack(self, images: Iterable[Image.Image]) -> Tensor:
        """(B, C, H, W) on the device."""
        return torch.stack([self.towers.image_transform(image) for image in images]).to(self.device)

    @torch.no_grad()
    def image_batch(self, images_BCHW: Tensor) -> FloatArray:
        """(B, E) embeddings of transformed images."""
        return _numpy(self.towers.encode_image(images_BCHW.to(self.device)))

    @torch.no_grad()
    def text_batch(self, ids_BL: Tensor) -> FloatArray:
        """(B, E) embeddings of encoder rows."""
        return _numpy(self.towers.encode_text(ids_BL.to(self.device)))


class Embedder(TowerEmbedder):
    """A model of this project, which may have a captioner.

    Args:
        model: moved as above.
        image_transform: for evaluation, without randomness.
        tokenizer: the one the model was trained with; rows are as long as its context.
        batch_size: inputs per forward pass.
        device: where the model runs.
    """

    def __init__(
        self,
        model: ClipsModel,
        image_transform: ImageTransform,
        tokenizer: Tokenizer,
        *,
        batch_size: int = 64,
        device: str | torch.device = "cpu",
    ) -> None:
        length = model.config.text.context_length

        def rows(texts: Sequence[str]) -> Tensor:
            return torch.tensor([tokenizer.encode(text, length) for text in texts])

        towers = Towers(model, model.encode_image, model.encode_text, image_transform, rows)
        super().__init__(towers, batch_size=batch_size, device=device)
        self.model, self.tokenizer = model, tokenizer


def open_image(data: bytes) -> Image.Image:
    """A decoded picture.

    Raises:
        UndecodableImageError: the bytes are no whole image.
    """
    try:
        image = formats.open_image(data)
        # Now, so that a damaged file is an error here and not somewhere in a transform.
        image.load()
    except formats.DECODE_ERRORS as error:
        raise UndecodableImageError(f"{type(error).__name__}: {error}") from None
    return image


def retrieval_texts(record: Record) -> tuple[str, ...]:
    """The captions an image is asked for: the human ones, or where there are none the one found on the web, if any."""
    return record.captions or ((record.web_caption,) if record.web_caption.strip() else ())


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode from before outside: for a look at a model that is being trained."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def pick_device(name: str) -> torch.device:
    """`auto` is a GPU where torch finds one; anything else is taken as it is."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def iterate_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _numpy(embedding_BE: Tensor) -> FloatArray:
    array: FloatArray = embedding_BE.float().cpu().numpy()
    return array


def _stack(batches: Iterable[Any]) -> FloatArray:
    found = list(batches)
    if not found:
        raise ValueError("nothing to embed: no image or text was given")
    return np.concatenate(found)
