"""Embedding of images and texts in batches.

Shapes: B batch, C H W image, L context length, E embedding width, N all inputs.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images import formats
from clips_pipeline.data.images.transforms import UndecodableImageError
from clips_pipeline.data.limits import DEFAULT_LIMITS, SampleLimits
from clips_pipeline.data.shards.records import Record
from clips_pipeline.evaluation.metrics.retrieval import FloatArray
from clips_pipeline.interop.folder import Towers
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.progress import track
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

T = TypeVar("T")
R = TypeVar("R")
MOST_THREADS = 16
"""Most threads that decode images for one model."""
ImageTransform = Callable[[Image.Image], Tensor]
"""Maps one image to the (C, H, W) float tensor that `encode_image` takes."""


class TowerEmbedder:
    """Batched embedding with an image tower and a text tower.

    Args:
        towers: moved to `device` and switched to evaluation mode, permanently.
        batch_size: inputs per forward pass.
        device: device of the model.
        threads: threads that open and transform the images of a batch; Pillow decodes and resizes in parallel.

    Attributes:
        reads_text: whether there is a text tower.
    """

    reads_text = True

    def __init__(
        self, towers: Towers, *, batch_size: int = 64, device: str | torch.device = "cpu", threads: int = 1
    ) -> None:
        towers.module.to(device).eval()
        self.towers, self.batch_size, self.device = towers, batch_size, torch.device(device)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def images(self, images: Iterable[Image.Image]) -> FloatArray:
        """Return (N, E) embeddings with unit norm. At most one batch of images is held in memory."""
        batches = iterate_batches(_tracked(images, "images"), self.batch_size)
        return _stack(self.image_batch(self.stack(batch)) for batch in batches)

    def texts(self, texts: Iterable[str]) -> FloatArray:
        """Return (N, E) embeddings with unit norm. Texts longer than the context are truncated, as in training."""
        batches = iterate_batches(_tracked(texts, "texts"), self.batch_size)
        return _stack(self.text_batch(self.towers.text_rows(batch)) for batch in batches)

    def stack(self, images: Iterable[Image.Image]) -> Tensor:
        """Transform images and return them as a batch (B, C, H, W) on the device."""
        return torch.stack([self.towers.image_transform(image) for image in images]).to(self.device)

    def open_and_stack(self, items: Iterable[T], open_item: Callable[[T], Image.Image]) -> Tensor:
        """Open images, transform them and return them as a batch (B, C, H, W) on the device, in the order of the items."""
        return torch.stack([*self.ahead(lambda item: self.towers.image_transform(open_item(item)), items)]).to(
            self.device
        )

    def ahead(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield the results of `function` in order, computed by the threads, up to `batch_size` items ahead; else one by one."""
        if self._pool is None:
            yield from map(function, items)
            return
        pending: deque[Future[R]] = deque()
        try:
            for item in items:
                pending.append(self._pool.submit(function, item))
                if len(pending) >= self.batch_size:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    @torch.no_grad()
    def image_batch(self, images_BCHW: Tensor) -> FloatArray:
        """Return (B, E) embeddings of transformed images."""
        return _numpy(self.towers.encode_image(images_BCHW.to(self.device)))

    @torch.no_grad()
    def text_batch(self, ids_BL: Tensor) -> FloatArray:
        """Return (B, E) embeddings of encoder rows."""
        return _numpy(self.towers.encode_text(ids_BL.to(self.device)))


class Embedder(TowerEmbedder):
    """A model of this project, which may have a captioner.

    Args:
        model: moved to `device` and switched to evaluation mode, permanently.
        image_transform: deterministic transform for evaluation.
        tokenizer: tokenizer that the model was trained with; rows are as long as the model's context.
        batch_size: inputs per forward pass.
        device: device of the model.
        threads: as in `TowerEmbedder`.
    """

    def __init__(
        self,
        model: ClipsModel,
        image_transform: ImageTransform,
        tokenizer: Tokenizer,
        *,
        batch_size: int = 64,
        device: str | torch.device = "cpu",
        threads: int = 1,
    ) -> None:
        length = model.config.text.context_length

        def rows(texts: Sequence[str]) -> Tensor:
            return torch.tensor([tokenizer.encode(text, length) for text in texts])

        towers = Towers(model, model.encode_image, model.encode_text, image_transform, rows)
        super().__init__(towers, batch_size=batch_size, device=device, threads=threads)
        self.model, self.tokenizer, self.reads_text = model, tokenizer, model.text is not None


def open_image(data: bytes, limits: SampleLimits = DEFAULT_LIMITS) -> Image.Image:
    """Decode an image.

    Args:
        data: content of a JPEG, PNG or WebP file.
        limits: limits on its bytes, pixels and scans.

    Raises:
        UndecodableImageError: the bytes are not a complete image, or decoding it fails for any other reason.
    """
    try:
        image = formats.open_image(data, limits)
        # Decode here, so that a damaged file raises here and not inside a transform.
        image.load()
    except Exception as error:  # also what no decoder is known to raise: a caller has one error to handle
        raise UndecodableImageError.of(error) from error
    return image


def retrieval_texts(record: Record) -> tuple[str, ...]:
    """Return the captions for retrieval: the human captions, or without any the web caption unless it is blank."""
    return record.captions or tuple(text for text in record.web_captions if text.strip())


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Switch a model to evaluation mode and restore its mode on exit, for evaluations during training."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def pick_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is a GPU if torch finds one, else the CPU.

    Raises:
        ConfigError: a GPU is asked for, and torch finds none.
    """
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device: {name!r}, but torch finds no GPU; set it to 'auto' or 'cpu'")
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of_rank(name: str, rank: int) -> torch.device:
    """Return the device of one of several processes: with `auto` or `cuda`, each takes the next GPU."""
    device = pick_device(name)
    if device.type == "cuda" and ":" not in name:
        return torch.device("cuda", rank % torch.cuda.device_count())
    return device


def decoding_threads(device: torch.device, cores: int) -> int:
    """Return how many threads decode images for a model: several for a GPU, which waits for them; a CPU is busy with the model."""
    return max(1, min(MOST_THREADS, cores)) if device.type == "cuda" else 1


def iterate_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _tracked(items: Iterable[T], unit: str) -> Iterable[T]:
    return track(items, "embed", len(items) if isinstance(items, Sized) else None, unit)


def _numpy(embedding_BE: Tensor) -> FloatArray:
    array: FloatArray = embedding_BE.float().cpu().numpy()
    return array


def _stack(batches: Iterable[Any]) -> FloatArray:
    found = list(batches)
    if not found:
        raise ValueError("no images or texts to embed")
    return np.concatenate(found)
