"""Images and texts to embeddings, in batches.

Legend of suffixes: B batch, C H W image, L context length, E embedding width, N all inputs.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.retrieval import FloatArray
from clips_pipeline.interop.folder import load_model_folder
from clips_pipeline.interop.open_clip_model import is_open_clip, load_open_clip
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.shards.check import DECODE_ERRORS
from clips_pipeline.shards.records import Record
from clips_pipeline.shards.transforms import UndecodableImageError
from clips_pipeline.text.tokenizer import Tokenizer

T = TypeVar("T")
ImageTransform = Callable[[Image.Image], Tensor]
"""One picture to the (C, H, W) float tensor that `encode_image` takes."""


class TowerEmbedder:
    """Two towers, of whatever model, with all they need to read files and texts.

    Args:
        module: holds the weights; moved to `device` and put into evaluation mode; it stays there.
        encode_image: (B, C, H, W) to (B, E), of length one.
        encode_text: rows (B, L) to (B, E), of length one.
        image_transform: for evaluation, without randomness.
        text_rows: texts to the rows that `encode_text` takes, by the tokenizer the model was trained with.
        batch_size: inputs per forward pass.
        device: where the model runs.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        encode_image: Callable[[Tensor], Tensor],
        encode_text: Callable[[Tensor], Tensor],
        image_transform: ImageTransform,
        text_rows: Callable[[Sequence[str]], Tensor],
        *,
        batch_size: int = 64,
        device: str | torch.device = "cpu",
    ) -> None:
        module.to(device).eval()
        self.encode_image, self.encode_text = encode_image, encode_text
        self.image_transform, self.text_rows = image_transform, text_rows
        self.batch_size = batch_size
        self.device = torch.device(device)

    def images(self, images: Iterable[Image.Image]) -> FloatArray:
        """(N, E) embeddings of length one; no more than a batch of pictures is held at a time."""
        return _stack(self.image_batch(self.stack(batch)) for batch in in_batches(images, self.batch_size))

    def texts(self, texts: Iterable[str]) -> FloatArray:
        """(N, E) embeddings of length one; texts longer than the model's context are cut as in training."""
        return _stack(self.text_batch(self.text_rows(batch)) for batch in in_batches(texts, self.batch_size))

    def stack(self, images: Iterable[Image.Image]) -> Tensor:
        """(B, C, H, W) on the device."""
        return torch.stack([self.image_transform(image) for image in images]).to(self.device)

    @torch.no_grad()
    def image_batch(self, images_BCHW: Tensor) -> FloatArray:
        """(B, E) embeddings of transformed images."""
        return _numpy(self.encode_image(images_BCHW.to(self.device)))

    @torch.no_grad()
    def text_batch(self, ids_BL: Tensor) -> FloatArray:
        """(B, E) embeddings of encoder rows."""
        return _numpy(self.encode_text(ids_BL.to(self.device)))


class Embedder(TowerEmbedder):
    """A model of this project, which may have a captioner.

    Args:
        model: as `module`.
        image_transform: as above.
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

        super().__init__(
            model, model.encode_image, model.encode_text, image_transform, rows, batch_size=batch_size, device=device
        )
        self.model, self.tokenizer = model, tokenizer


def load_embedder(model: Path, config: EvaluationConfig) -> TowerEmbedder:
    """An `Embedder` for an exported model; for one of open_clip the towers alone.

    Args:
        model: a folder that `train` exported, a folder of open_clip, or with `config.architecture` a checkpoint of open_clip.
        config: batch size, device and architecture.

    Raises:
        ConfigError: it cannot be loaded, or its tokenizer knows more pieces than the model.
    """
    device = pick_device(config.device)
    if is_open_clip(model, config.architecture):
        found = load_open_clip(model, config.architecture)
        return TowerEmbedder(
            found.module,
            found.encode_image,
            found.encode_text,
            found.image_transform,
            found.text_rows,
            batch_size=config.batch_size,
            device=device,
        )
    loaded = load_model_folder(model)
    known, pieces = loaded.model.config.text.vocab_size, loaded.tokenizer.vocab_size
    if pieces > known:
        raise ConfigError(
            f"{model}: its tokenizer knows {pieces} pieces and its text tower {known}; the tokenizer is another model's"
        )
    return Embedder(loaded.model, loaded.image_transform, loaded.tokenizer, batch_size=config.batch_size, device=device)


def open_image(data: bytes) -> Image.Image:
    """A decoded picture.

    Raises:
        UndecodableImageError: the bytes are no whole image.
    """
    try:
        image = Image.open(io.BytesIO(data))
        # Now, so that a damaged file is an error here and not somewhere in a transform.
        image.load()
    except DECODE_ERRORS as error:
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


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
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
