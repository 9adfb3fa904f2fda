"""A trained model ready for use, from a folder or from MLflow. The entry point is `clips_pipeline.load`."""

import re
from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.formats import TooLargeImageError, read_image
from clips_pipeline.data.images.transforms import UndecodableImageError
from clips_pipeline.evaluation.inference.caption_decoding import write_captions
from clips_pipeline.evaluation.inference.embed import Embedder, iterate_batches, open_image, pick_device
from clips_pipeline.evaluation.metrics.retrieval import FloatArray
from clips_pipeline.interop.folder import LoadedModel, load_model_folder
from clips_pipeline.progress import Stage
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

# At least two letters, so that a Windows drive does not match as a scheme.
_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:/")

Dtype = Literal["float32", "bfloat16", "float16"]
"""Precision of a loaded model."""

_MANY_CAPTIONS = 8
_CAPTION_BATCH = 16  # a caption takes far longer than an embedding, and the progress bar moves by batches
T = TypeVar("T")

ImageInput = str | Path | Image.Image | np.ndarray[Any, Any]
"""A path, a Pillow image, or an array (H, W, 3) of uint8."""


class BatchTokenizer:
    """A callable around a model's tokenizer; attributes and methods of `text.tokenizers.tokenizer.Tokenizer` pass through.

    Args:
        tokenizer: the tokenizer that the model was trained with.
        context_length: length of the model's text rows.
    """

    def __init__(self, tokenizer: Tokenizer, context_length: int) -> None:
        self.wrapped, self.context_length = tokenizer, context_length

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Return rows of ids (B, L), int64, as `encode_text` takes them. Longer texts are truncated.

        Raises:
            TypeError: the input is not a text or a sequence of texts.
        """
        rows = [self.wrapped.encode(text, self.context_length) for text in _as_texts(texts)]
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), self.context_length)

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped":  # not set yet during unpickling
            raise AttributeError(name)
        return getattr(self.wrapped, name)


class Clips:
    """A trained model with its image transform and tokenizer.

    Args:
        loaded: the content of a model folder.
        device: device of the model; `auto` is a GPU if there is one.
        dtype: precision of weights and computation; embeddings are float32 in any case.
        batch_size: inputs per forward pass.
        progress: whether progress is shown: in a terminal on stderr, in a notebook, elsewhere as log lines; None shows that of
            long inputs, in terminals and notebooks.

    Attributes:
        model: `models.clips.ClipsModel` in evaluation mode. Its `encode_image` takes images of the model's size only.
        image_transform: maps a Pillow image to the normalized (3, H, W) tensor that `encode_image` takes in batches.
        tokenizer: maps texts to the rows of ids that `encode_text` takes.
        config: content of config.json.
        device: device of the model.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        device: str = "cpu",
        dtype: Dtype = "float32",
        batch_size: int = 64,
        progress: bool | None = None,
    ) -> None:
        self.device = pick_device(device)
        loaded.model.to(getattr(torch, dtype))
        self._batch_size, self._progress = batch_size, progress
        self.model, self.image_transform, self.config = loaded.model, loaded.image_transform, loaded.config
        self.tokenizer = BatchTokenizer(loaded.tokenizer, loaded.model.config.text.context_length)
        self._embedder = Embedder(
            loaded.model, loaded.image_transform, loaded.tokenizer, batch_size=batch_size, device=self.device
        )
        size = loaded.model.config.vision.image_size
        loaded.model.vision.register_forward_pre_hook(partial(_check_image_shape, size))

    def __repr__(self) -> str:
        config, method = self.model.config, "no" if self.model.captioner is None else "a"
        vision = config.vision
        return (
            f"Clips({vision.image_size} pixels, patches of {vision.patch_size}, embeddings of {config.embed_dim}, "
            f"{method} captioner, on {self.device})"
        )

    def embed_images(self, images: ImageInput | Iterable[ImageInput]) -> FloatArray:
        """Return embeddings (N, E) with unit norm.

        Args:
            images: one image or an iterable of images, each a path, a Pillow image or an array.

        Raises:
            TypeError: the input is of another type.
            FileNotFoundError: a file does not exist.
            UndecodableImageError: a file cannot be decoded.
        """
        return self._embedder.images(map(_to_pillow, self._tracked(_as_images(images), "images")))

    def embed_texts(self, texts: str | Sequence[str]) -> FloatArray:
        """Return embeddings (N, E) with unit norm, of one text or a sequence of texts.

        Raises:
            TypeError: the input is of another type.
            ValueError: the model has no text tower (method captioning).
        """
        return self._embedder.texts(self._tracked(_as_texts(texts), "texts"))

    def similarity(self, images: ImageInput | Iterable[ImageInput], texts: str | Sequence[str]) -> FloatArray:
        """Return cosine similarities (N, M) of N images and M texts. Errors are those of the two embed methods."""
        product: FloatArray = self.embed_images(images) @ self.embed_texts(texts).T
        return product

    def caption(self, images: ImageInput | Iterable[ImageInput], web_caption: str = "") -> list[str]:
        """Write one caption per image by beam search of width 4.

        Args:
            images: as in `embed_images`.
            web_caption: text that the captioner reads together with the image (method clips), such as a title.

        Raises:
            ValueError: the model has no captioner (methods clip and mixture).
        """
        if self.model.captioner is None:
            raise ValueError("this model has no captioner: train one with train.method clips, coca or captioning")
        captions: list[str] = []
        tracked = self._tracked(_as_images(images), "captions", long=_MANY_CAPTIONS)
        for batch in iterate_batches(tracked, min(self._batch_size, _CAPTION_BATCH)):
            images_BCHW = torch.stack([self.image_transform(_to_pillow(image)) for image in batch]).to(self.device)
            captions += write_captions(self.model, images_BCHW, [web_caption] * len(batch), self.tokenizer.wrapped)
        return captions

    def _tracked(self, items: Iterable[T], what: str, long: int | None = None) -> Iterable[T]:
        """Return the items; iterating over more than `long` of them is shown, in a terminal on stderr."""
        count = len(items) if isinstance(items, Sized) else None
        short = count is None or count <= (long or 4 * self._batch_size)
        if self._progress is False or (self._progress is None and short):
            return items
        return _counted(items, Stage(what, count, what, console=Console(stderr=True), logs=self._progress is True))


def _counted(items: Iterable[T], stage: Stage) -> Iterator[T]:
    with stage:
        for item in items:
            yield item
            stage.advance()


def load_model(
    path_or_uri: str | Path,
    *,
    device: str = "cpu",
    dtype: Dtype = "float32",
    batch_size: int = 64,
    progress: bool | None = None,
) -> Clips:
    """Load a trained model.

    Args:
        path_or_uri: an exported folder (`data/06_models/clips`), the folder of an MLflow model, or an MLflow URI:
            `models:/clips@champion`, `models:/clips/3`, `runs:/<run id>/clips`.
        device: a torch device name, or `auto`.
        dtype: `float32`, `bfloat16` or `float16`, of weights and computation; embeddings are float32 in any case.
        batch_size: inputs per forward pass.
        progress: whether progress is shown: in a terminal on stderr, in a notebook, elsewhere as log lines; None shows that of
            long inputs, in terminals and notebooks.

    Raises:
        ConfigError: there is no model, it is not a model of this project, MLflow does not have it or is unreachable, or dtype or
            device cannot be used.
    """
    if dtype not in get_args(Dtype):
        raise ConfigError(f"dtype: {dtype!r} is unknown; give one of {', '.join(get_args(Dtype))}")
    text = str(path_or_uri)
    if _URI.match(text) or (Path(text) / "MLmodel").is_file():
        # Imported here because a folder does not need MLflow, and the import takes over a second.
        from clips_pipeline.registry.versions.packaging import fetch_model_folder_for_load

        folder = fetch_model_folder_for_load(text)
    else:
        folder = Path(text)
    try:
        loaded = load_model_folder(folder)
        return Clips(loaded, device=device, dtype=dtype, batch_size=batch_size, progress=progress)
    except RuntimeError as error:
        raise ConfigError(
            f"device: {device!r} cannot be used ({str(error).splitlines()[0]}); give cpu or auto"
        ) from None


def _as_texts(texts: str | Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        return [texts]
    items: list[Any] = list(texts) if isinstance(texts, Iterable) else [texts]
    for text in items:
        if not isinstance(text, str):
            raise TypeError(f"expected a text or a list of texts, got {_describe(text)}")
    return items


def _as_images(images: ImageInput | Iterable[ImageInput]) -> Iterable[ImageInput]:
    if isinstance(images, str | Path | Image.Image) or (isinstance(images, np.ndarray) and images.ndim == 3):
        return [images]
    if not isinstance(images, Iterable) or isinstance(images, bytes | Tensor):
        raise TypeError(f"expected images: paths, Pillow images or arrays (H, W, 3); got {_describe(images)}")
    return images


def _to_pillow(image: ImageInput) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str | Path):
        try:
            return open_image(read_image(Path(image)))
        except (UndecodableImageError, TooLargeImageError) as error:
            raise UndecodableImageError(f"{image}: {error}") from None
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return Image.fromarray(image)
    raise TypeError(f"expected a path, a Pillow image or an array (H, W, 3) of uint8; got {_describe(image)}")


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray | Tensor):
        return f"{type(value).__name__} {tuple(value.shape)} of {value.dtype}"
    return f"{type(value).__name__} {str(value)[:60]!r}"


def _check_image_shape(size: int, module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
    shape = tuple(arguments[0].shape)
    if len(shape) != 4 or shape[1:] != (3, size, size):
        batch = "; make a batch of a single image by x[None]" if len(shape) == 3 else ""
        raise ValueError(
            f"encode_image takes a batch (B, 3, {size}, {size}), got {shape}{batch}; image_transform returns images of that size"
        )
