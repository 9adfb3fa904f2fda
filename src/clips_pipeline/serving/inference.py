"""The model of the server: embeddings, captions and search, in batches.

Shapes: B batch, C H W image, L context length, E embedding.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clips_pipeline.config import ConfigError
from clips_pipeline.data.limits import DEFAULT_LIMITS
from clips_pipeline.evaluation.inference.caption_decoding import decode_captions_beam
from clips_pipeline.evaluation.inference.checked_inputs import NO_TEXT_TOWER, RefusedInputError, image_tensor, text_row
from clips_pipeline.evaluation.inference.embed import Embedder, pick_device
from clips_pipeline.interop.digest import model_digest
from clips_pipeline.interop.folder import load_model_folder
from clips_pipeline.serving.batching import Batcher, Queue
from clips_pipeline.serving.config import ServeConfig
from clips_pipeline.serving.errors import ApiError, busy
from clips_pipeline.serving.metrics import Metrics
from clips_pipeline.serving.neighbors import Neighbors

T = TypeVar("T")
V = TypeVar("V")
R = TypeVar("R")

Embedding = NDArray[np.float32]
Kind = Literal["image", "text", "caption"]

_DECODING_THREADS: Final = 2
_STUCK_S: Final = 120.0


@dataclass(frozen=True)
class ImageToCaption:
    """A transformed image (C, H, W) and the row of ids of its web caption."""

    image: Tensor
    web_row: list[int]


class Inference:
    """A loaded model and, if there is one, its index.

    Args:
        folder: model folder.
        index: table of embeddings of the same model.
        pictures: whether small pictures of its rows may be read from the files that it names.
        config: limits and batching.
        device: a torch device name, or `auto`.

    Attributes:
        digest: digest of the model folder.
        neighbors: the index; None without one.
        can_caption: whether the model has a captioner.
        queue: items that wait or are worked on.

    Raises:
        ConfigError: the folder or the table is missing, damaged or of another format, the table is of another model, or the
            device cannot be used.
    """

    def __init__(
        self, folder: Path, index: Path | None, config: ServeConfig, device: str = "cpu", *, pictures: bool = False
    ) -> None:
        loaded = load_model_folder(folder)
        try:
            self._embedder = Embedder(
                loaded.model, loaded.image_transform, loaded.tokenizer, device=pick_device(device)
            )
        except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
            raise ConfigError(
                f"device: {device!r} cannot be used ({str(error).splitlines()[0]}); give cpu or auto"
            ) from None
        self.digest = model_digest(folder)
        self.neighbors = None if index is None else Neighbors(index, self.digest, pictures=pictures)
        self.can_caption = loaded.model.captioner is not None
        self.queue = Queue(config.max_queue)
        self._limits = replace(DEFAULT_LIMITS, max_pixels=config.max_pixels)
        self._length = loaded.model.config.text.context_length
        self._config = config
        self._on_their_way: Counter[Kind] = Counter()
        self._busy_since: float | None = None
        self._decoding = ThreadPoolExecutor(_DECODING_THREADS, "decode")
        self._model_thread = ThreadPoolExecutor(1, "model")
        self._check_weights(folder)

    def start(self, metrics: Metrics) -> None:
        """Make the batchers; called in the event loop.

        Args:
            metrics: counts batches and refused items.
        """
        self._metrics = metrics
        lock, most = asyncio.Lock(), self._config.max_batch
        self._images = self._batcher("image", self._embed_images, lock, most)
        self._texts = self._batcher("text", self._embed_texts, lock, most)
        self._captions = self._batcher("caption", self._write_captions, lock, self._config.max_caption_batch)

    async def close(self) -> None:
        """Stop the threads; whatever waits is canceled."""
        for batcher in (self._images, self._texts, self._captions):
            await batcher.close()
        for executor in (self._decoding, self._model_thread):
            executor.shutdown(wait=False, cancel_futures=True)

    def is_stuck(self) -> bool:
        """Return whether the model has worked on one batch for two minutes."""
        return self._busy_since is not None and time.monotonic() - self._busy_since > _STUCK_S

    @contextmanager
    def admitted(self, count: int) -> Iterator[None]:
        """Count items as waiting.

        Raises:
            ApiError: there are too many of them already.
        """
        if not self.queue.enter(count):
            raise busy(f"{self.queue.items} items are waiting, and at most {self.queue.most} may")
        try:
            yield
        finally:
            self.queue.leave(count)

    async def embed_images(self, images: Sequence[bytes | str]) -> "list[Embedding | RefusedInputError]":
        """Return an embedding, or the reason why there is none, for each image (a file, or its base64)."""
        transform = self._embedder.towers.image_transform
        return await self._each(
            "image", images, lambda image: image_tensor(image, transform, self._limits), self._images
        )

    async def embed_texts(self, texts: Sequence[str]) -> "list[Embedding | RefusedInputError]":
        """Return an embedding, or the reason why there is none, for each text.

        Raises:
            ApiError: the model has no text tower.
        """
        if not self._embedder.reads_text:
            raise ApiError(404, "no_text_tower", NO_TEXT_TOWER)
        return await self._each("text", texts, self._text_row, self._texts)

    async def caption(
        self, images: Sequence[bytes | str], web_captions: Sequence[str]
    ) -> "list[str | RefusedInputError]":
        """Return a caption, or the reason why there is none, for each image with its web caption (may be empty).

        Raises:
            ApiError: the model has no captioner.
        """
        if not self.can_caption:
            raise ApiError(404, "no_captioner", "this model has no captioner (methods clip and mixture)")
        transform = self._embedder.towers.image_transform

        def prepare(pair: tuple[bytes | str, str]) -> ImageToCaption:
            row = self._text_row(pair[1]) if pair[1].strip() else self._embedder.tokenizer.encode("", self._length)
            return ImageToCaption(image_tensor(pair[0], transform, self._limits), row)

        return await self._each("caption", list(zip(images, web_captions, strict=True)), prepare, self._captions)

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run a function beside the event loop: parsing of large bodies, and search."""
        return await asyncio.get_running_loop().run_in_executor(self._decoding, function)

    async def _each(
        self, kind: Kind, values: Sequence[T], prepare: Callable[[T], V], batcher: "Batcher[V, R]"
    ) -> "list[R | RefusedInputError]":
        """Prepare the values in threads and give the good ones to the batcher."""
        # A request with many items takes turns with the others.
        free = asyncio.Semaphore(_DECODING_THREADS)

        async def prepared_one(value: T) -> V | RefusedInputError:
            async with free:
                return await self.in_thread(lambda: _or_refusal(prepare, value))

        self._on_their_way[kind] += len(values)
        left = len(values)
        try:
            prepared = await _all(prepared_one(value) for value in values)
            good = [item for item in prepared if not isinstance(item, RefusedInputError)]
            self._on_their_way[kind] -= len(values) - len(good)
            left = len(good)
            found = iter(await batcher.results(good) if good else [])
        finally:
            self._on_their_way[kind] -= left
        for item in prepared:
            if isinstance(item, RefusedInputError):
                self._metrics.refused.labels(item.reason).inc()
        return [item if isinstance(item, RefusedInputError) else next(found) for item in prepared]

    def _batcher(
        self, kind: Kind, run: "Callable[[list[V]], Sequence[R]]", lock: asyncio.Lock, most: int
    ) -> "Batcher[V, R]":
        def timed(batch: list[V]) -> Sequence[R]:
            self._busy_since = time.monotonic()
            try:
                return run(batch)
            finally:
                self._busy_since = None

        return Batcher(
            timed,
            self._model_thread,
            lock,
            max_batch=most,
            max_delay_s=self._config.max_delay_ms / 1000,
            expected=lambda: self._on_their_way[kind],
            on_batch=self._metrics.batches.labels(kind).observe,
        )

    def _text_row(self, text: str) -> list[int]:
        return text_row(text, self._embedder.tokenizer, self._length, self._limits)

    def _embed_images(self, images: list[Tensor]) -> Sequence[Embedding]:
        return list(self._embedder.image_batch(torch.stack(images)))

    def _embed_texts(self, rows: list[list[int]]) -> Sequence[Embedding]:
        return list(self._embedder.text_batch(torch.tensor(rows)))

    def _write_captions(self, items: list[ImageToCaption]) -> Sequence[str]:
        images_BCHW = torch.stack([item.image for item in items]).to(self._embedder.device)
        web_BL = torch.tensor([item.web_row for item in items]).to(self._embedder.device)
        return decode_captions_beam(self._embedder.model, images_BCHW, web_BL, self._embedder.tokenizer)

    def _check_weights(self, folder: Path) -> None:
        """Embed an image and a text once: also makes the first request as fast as the others."""
        size = self._embedder.model.config.vision.image_size
        found = [*self._embed_images([torch.zeros(3, size, size)])]
        if self._embedder.reads_text:
            found += self._embed_texts([self._embedder.tokenizer.encode("a", self._length)])
        if not all(np.isfinite(vector).all() for vector in found):
            raise ConfigError(
                f"{folder}: its embeddings are not finite; the weights are damaged, export the model again"
            )


async def _all(work: "Iterable[Coroutine[Any, Any, V]]") -> list[V]:
    """Return the results; if one fails, or the caller is canceled, none goes on."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
    return [task.result() for task in tasks]


def _or_refusal(prepare: Callable[[T], V], value: T) -> V | RefusedInputError:
    try:
        return prepare(value)
    except RefusedInputError as error:
        return error
