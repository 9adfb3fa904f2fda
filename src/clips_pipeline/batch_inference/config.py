"""Parameters of the pipelines `embed` and `recaption`. Does not import torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from clips_pipeline.config import ConfigError, Fraction

Splits = Literal["train", "validation", "test", "all"]

Texts = Literal["none", "web", "synthetic", "human"]


@dataclass(frozen=True)
class EmbedConfig:
    """Samples to embed, model and processes of the pipeline `embed`.

    Attributes:
        data: tar shards (with `{…}`, `::` and lists), or folders of shards or images; null takes the prepared shards.
        split: split of prepared shards, or `all`.
        model: folder or MLflow URI of the model; null takes the trained one.
        texts: which captions are embedded beside the images: `none`, `web`, `synthetic`, or all `human` ones.
        web_field: name of the web caption field in tar shards, `txt` or a field of KEY.json.
        synthetic_field: name of the synthetic caption field of KEY.json.
        batch_size: images per forward pass.
        device: a torch device name; `auto` takes a GPU if there is one.
        processes: number of processes; with GPUs, each takes the next one.
        max_skipped_fraction: limit on the fraction of samples that cannot be used; above it, no table is written.
    """

    data: str | tuple[str, ...] | None = None
    split: Splits = "test"
    model: str | None = None
    texts: Texts = "web"
    web_field: str = "txt"
    synthetic_field: str = "re_caption"
    batch_size: Annotated[int, Ge(1), Le(65_536)] = 64
    device: str = "auto"
    processes: Annotated[int, Ge(1), Le(1024)] = 1
    max_skipped_fraction: Fraction = 0.05

    def __post_init__(self) -> None:
        _check_fields(self.web_field, self.synthetic_field)


@dataclass(frozen=True)
class RecaptionRunConfig:
    """Samples to caption, model and decoding of the pipeline `recaption`.

    Attributes:
        data: tar shards (with `{…}`, `::` and lists), or folders of shards or images; null takes the prepared shards.
        split: split of prepared shards, or `all`.
        model: folder or MLflow URI of a model with a captioner; null takes the trained one.
        decoding: `beam` search, or `parallel`: the most likely word of each position (method clips), faster.
        beam_width: hypotheses of beam search.
        web_field: name of the web caption field in tar shards, `txt` or a field of KEY.json; the captioner reads it.
        synthetic_field: field of KEY.json that gets the new caption.
        shards: whether to write the samples with the new captions as shards, beside the table.
        batch_size: images per forward pass.
        device: a torch device name; `auto` takes a GPU if there is one.
        processes: number of processes; with GPUs, each takes the next one.
        max_skipped_fraction: limit on the fraction of samples that cannot be used; above it, nothing is written.
    """

    data: str | tuple[str, ...] | None = None
    split: Splits = "train"
    model: str | None = None
    decoding: Literal["beam", "parallel"] = "beam"
    beam_width: Annotated[int, Ge(1), Le(100)] = 4
    web_field: str = "txt"
    synthetic_field: str = "re_caption"
    shards: bool = True
    batch_size: Annotated[int, Ge(1), Le(65_536)] = 32
    device: str = "auto"
    processes: Annotated[int, Ge(1), Le(1024)] = 1
    max_skipped_fraction: Fraction = 0.05

    def __post_init__(self) -> None:
        _check_fields(self.web_field, self.synthetic_field)


def _check_fields(web: str, synthetic: str) -> None:
    if not web or not synthetic or web == synthetic:
        raise ConfigError(f"web_field: {web!r} and synthetic_field {synthetic!r} must be two different names")
