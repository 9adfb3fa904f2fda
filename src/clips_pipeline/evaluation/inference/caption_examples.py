"""Example captions of held-out images, as data and as a figure.

Shapes: C H W image, L context length.
"""

import io
import logging
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clips_pipeline.data.images.transforms import ImageConfig, UndecodableImageError, eval_image
from clips_pipeline.data.shards.reader import ShardSet
from clips_pipeline.data.shards.records import Record
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.evaluation.inference.caption_decoding import ParallelCaption, parallel_caption, write_captions
from clips_pipeline.evaluation.inference.embed import ImageTransform, evaluation_mode, open_image
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.text.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_COLUMNS = 3
_LINE = 70  # characters per line below an image
_SHOWN = 220  # characters of a caption


@dataclass(frozen=True)
class CaptionedImage:
    """One image with its captions and those that the model writes.

    Attributes:
        key: key of the sample.
        web, synthetic: captions of the sample.
        at_once: caption by parallel decoding; None for an autoregressive captioner.
        beam: caption by beam search.
        at_once_words: the words of `at_once`, each with its probability; empty for an autoregressive captioner.
    """

    key: str
    web: str
    synthetic: str
    at_once: str | None
    beam: str
    at_once_words: tuple[tuple[str, float], ...] = ()


def caption_examples(
    model: ClipsModel,
    shards_dir: Path,
    split: str,
    tokenizer: Tokenizer,
    images: ImageConfig,
    count: int,
    *,
    width: int = 4,
    remote: ShardCache | None = None,
) -> tuple[list[CaptionedImage], list[Record]]:
    """Caption the first `count` samples of a split; images that cannot be decoded are logged and left out.

    Args:
        model: model with a captioner; its device and mode do not change.
        shards_dir: folder that `prepare` wrote.
        split: split to read.
        tokenizer: tokenizer of the model.
        images: resolution and normalization.
        count: number of images.
        width: beam width.
        remote: cache for shards in remote storage.
    """
    shards = ShardSet(shards_dir, split, max_open_files=1, remote=remote)
    records = list(islice(shards.iterate(range(min(count, sum(shards.samples)))), count))
    transform = partial(eval_image, config=images)
    examples: list[CaptionedImage] = []
    captioned: list[Record] = []
    with evaluation_mode(model):
        for record in records:
            try:
                examples.append(caption_record(model, record, tokenizer, transform, width=width))
            except UndecodableImageError as error:
                log.warning("left out: %s %s: %s", error.reason, record.key, error)
            else:
                captioned.append(record)
    return examples, captioned


@torch.no_grad()
def caption_record(
    model: ClipsModel, record: Record, tokenizer: Tokenizer, transform: ImageTransform, *, width: int = 4
) -> CaptionedImage:
    """Caption the image of a sample.

    Args:
        model: model with a captioner, in evaluation mode.
        record: sample with the image and the web caption, which the captioner reads too.
        tokenizer: tokenizer of the model.
        transform: image transform of the model.
        width: beam width.

    Raises:
        UndecodableImageError: the image cannot be decoded.
    """
    image_CHW = transform(open_image(record.image, record.limits)).to(next(model.parameters()).device)
    at_once, best = write_caption(model, image_CHW, record.web_caption, tokenizer, width=width)
    text, words = (None, ()) if at_once is None else (at_once.text, at_once.words)
    return CaptionedImage(record.key, record.web_caption, record.synthetic_caption, text, best, words)


@torch.no_grad()
def write_caption(
    model: ClipsModel, image_CHW: Tensor, web_caption: str, tokenizer: Tokenizer, *, width: int = 4
) -> tuple[ParallelCaption | None, str]:
    """Return the caption by parallel decoding, None for an autoregressive captioner, and the caption by beam search.

    Args:
        model: model with a captioner, in evaluation mode.
        image_CHW: transformed image on the model's device.
        web_caption: text that a captioner of method clips reads together with the image.
        tokenizer: tokenizer of the model.
        width: beam width.

    Raises:
        ValueError: the model has no captioner.
    """
    captioner = model.captioner
    if captioner is None:
        raise ValueError("the model has no captioner")
    image_1CHW, at_once = image_CHW[None], None
    if captioner.token_embedding is None:
        web_ids = tokenizer.encode(web_caption, model.config.text.context_length)
        at_once = parallel_caption(model, image_CHW, torch.tensor(web_ids, device=image_CHW.device), tokenizer)
    (best,) = write_captions(model, image_1CHW, [web_caption], tokenizer, width=width)
    return at_once, best


def examples_to_mapping(examples: Sequence[CaptionedImage], step: int) -> dict[str, Any]:
    """Return the examples as plain values for JSON, without the words' probabilities."""
    plain = [
        {name: value for name, value in asdict(example).items() if name != "at_once_words"} for example in examples
    ]
    return {"step": step, "examples": plain}


def draw_examples(examples: Sequence[CaptionedImage], records: Sequence[Record], step: int) -> bytes:
    """Draw the images with their captions below, as PNG."""
    # Matplotlib's object interface, since pyplot has global state.
    from matplotlib.figure import Figure

    rows = -(-len(examples) // _COLUMNS)
    figure = Figure(figsize=(5 * _COLUMNS, 5 * rows + 0.4), layout="constrained")
    figure.suptitle(f"captions after {step:,} steps")
    for place, (example, record) in enumerate(zip(examples, records, strict=True)):
        axes = figure.add_subplot(rows, _COLUMNS, place + 1)
        axes.imshow(open_image(record.image, record.limits).convert("RGB"))
        axes.set_xticks([])
        axes.set_yticks([])
        lines = [("web", example.web), ("synthetic", example.synthetic), ("beam", example.beam)]
        if example.at_once is not None:
            lines.append(("at once", example.at_once))
        text = "\n".join(
            textwrap.fill(f"{name}: {textwrap.shorten(line, _SHOWN, placeholder='…')}", _LINE) for name, line in lines
        )
        # Escape dollar signs, which would start a formula.
        axes.set_xlabel(text.replace("$", r"\$"), fontsize=8)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # A character that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
