"""A trained model ready for use, from a folder or from MLflow. `clips_pipeline.load` is the way in."""

import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clips_pipeline.config import ConfigError
from clips_pipeline.data.images.transforms import UndecodableImageError
from clips_pipeline.evaluation.inference.caption_examples import write_caption
from clips_pipeline.evaluation.inference.embed import Embedder, open_image, pick_device
from clips_pipeline.evaluation.metrics.retrieval import FloatArray
from clips_pipeline.interop.folder import LoadedModel, load_model_folder
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

# Two letters at least, so that a Windows drive is not taken for a scheme.
_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:/")

Picture = str | Path | Image.Image | np.ndarray[Any, Any]
"""A file, a picture of Pillow, or an array (H, W, 3) of uint8."""


class BatchTokenizer:
    """A model's tokenizer, called with texts; it has the attributes and methods of `text.tokenizers.tokenizer.Tokenizer` too.

    Args:
        tokenizer: the one that the model was trained with.
        context_length: of the model.
    """

    def __init__(self, tokenizer: Tokenizer, context_length: int) -> None:
        self.wrapped, self.context_length = tokenizer, context_length

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Rows of ids (B, L) int64 as `encode_text` takes them; a longer text is cut.

        Raises:
            TypeError: something else than a text or texts.
        """
        rows = [self.wrapped.encode(text, self.context_length) for text in _texts(texts)]
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), self.context_length)

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.wrapped, name)


class Clips:
    """A trained model and what turns pictures and texts into its inputs.

    Args:
        loaded: from an exported folder.
        device: where the model runs; `auto` is a GPU where there is one.
        batch_size: inputs per forward pass.

    Attributes:
        model: `models.clips.ClipsModel` in evaluation mode; its `encode_image` takes pictures of the model's size alone.
        image_transform: a Pillow picture to the normalized (3, H, W) tensor that `encode_image` takes in batches.
        tokenizer: texts to the rows of ids that `encode_text` takes.
        config: what config.json holds.
        device: of the model.
    """

    def __init__(self, loaded: LoadedModel, *, device: str = "cpu", batch_size: int = 64) -> None:
        self.device = pick_device(device)
        self.model, self.image_transform, self.config = loaded.model, loaded.image_transform, loaded.config
        self.tokenizer = BatchTokenizer(loaded.tokenizer, loaded.model.config.text.context_length)
        self._embedder = Embedder(
            loaded.model, loaded.image_transform, loaded.tokenizer, batch_size=batch_size, device=self.device
        )
        size = loaded.model.config.vision.image_size
        loaded.model.vision.register_forward_pre_hook(partial(_check_pictures, size))

    def embed_images(self, images: Picture | Iterable[Picture]) -> FloatArray:
        """Embeddings (N, E) of length one.

        Args:
            images: files, pictures or arrays, or one of them.

        Raises:
            TypeError: something else.
            FileNotFoundError: no such file.
            UndecodableImageError: a file is no whole picture.
        """
        return self._embedder.images(map(_opened, _pictures(images)))

    def embed_texts(self, texts: str | Sequence[str]) -> FloatArray:
        """Embeddings (N, E) of length one, of texts or of one text.

        Raises:
            TypeError: something else.
        """
        return self._embedder.texts(_texts(texts))

    def similarity(self, images: Picture | Iterable[Picture], texts: str | Sequence[str]) -> FloatArray:
        """Cosines (N, M) of N images and M texts; errors as above."""
        product: FloatArray = self.embed_images(images) @ self.embed_texts(texts).T
        return product

    def caption(self, images: Picture | Iterable[Picture], web_caption: str = "") -> list[str]:
        """What the captioner writes about each image, by a beam of four.

        Args:
            images: as in `embed_images`.
            web_caption: what the captioner is given beside the image (method clips), such as a title.

        Raises:
            ValueError: the model has no captioner (methods clip and mixture).
        """
        if self.model.captioner is None:
            raise ValueError("this model has no captioner: train one with train.method clips or coca")
        found = []
        for image in _pictures(images):
            image_CHW = self.image_transform(_opened(image)).to(self.device)
            found.append(write_caption(self.model, image_CHW, web_caption, self.tokenizer.wrapped)[1])
        return found


def load_model(path_or_uri: str | Path, *, device: str = "cpu", batch_size: int = 64) -> Clips:
    """A trained model.

    Args:
        path_or_uri: an exported folder (`data/06_models/clips`), the folder of an MLflow model, or an MLflow URI:
            `models:/clips@champion`, `models:/clips/3`, `runs:/<run id>/clips`.
        device: as torch names it, or `auto`.
        batch_size: inputs per forward pass.

    Raises:
        ConfigError: no model there, one that this project did not make, or MLflow does not know it or cannot be asked.
    """
    text = str(path_or_uri)
    if _URI.match(text) or (Path(text) / "MLmodel").is_file():
        # Here, because a folder needs no mlflow, and importing it takes over a second.
        from clips_pipeline.registry.versions.packaging import fetch_model_folder_for_load

        folder = fetch_model_folder_for_load(text)
    else:
        folder = Path(text)
    try:
        return Clips(load_model_folder(folder), device=device, batch_size=batch_size)
    except RuntimeError as error:
        raise ConfigError(
            f"device: {device!r} cannot be used ({str(error).splitlines()[0]}); give cpu or auto"
        ) from None


def _texts(texts: str | Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        return [texts]
    found: list[Any] = list(texts) if isinstance(texts, Iterable) else [texts]
    for text in found:
        if not isinstance(text, str):
            raise TypeError(f"expected a text or a list of texts, got {_described(text)}")
    return found


def _pictures(images: Picture | Iterable[Picture]) -> Iterable[Picture]:
    if isinstance(images, str | Path | Image.Image) or (isinstance(images, np.ndarray) and images.ndim == 3):
        return [images]
    if not isinstance(images, Iterable) or isinstance(images, bytes | Tensor):
        raise TypeError(f"expected pictures: paths, Pillow images or arrays (H, W, 3); got {_described(images)}")
    return images


def _opened(image: Picture) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str | Path):
        try:
            return open_image(Path(image).read_bytes())
        except UndecodableImageError as error:
            raise UndecodableImageError(f"{image}: {error}") from None
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return Image.fromarray(image)
    raise TypeError(f"expected a path, a Pillow image or an array (H, W, 3) of uint8; got {_described(image)}")


def _described(value: object) -> str:
    if isinstance(value, np.ndarray | Tensor):
        return f"{type(value).__name__} {tuple(value.shape)} of {value.dtype}"
    return f"{type(value).__name__} {str(value)[:60]!r}"


def _check_pictures(size: int, module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
    shape = tuple(arguments[0].shape)
    if len(shape) != 4 or shape[1:] != (3, size, size):
        batch = "; a single picture becomes a batch by x[None]" if len(shape) == 3 else ""
        raise ValueError(
            f"encode_image takes a batch (B, 3, {size}, {size}), got {shape}{batch}; image_transform makes pictures of that size"
        )
