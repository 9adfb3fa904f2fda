"""What to evaluate on, and how much of it to show."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le

from clips_pipeline.config import ConfigError, NonNegativeInt, PositiveInt
from clips_pipeline.evaluation.metric_keys import COMPOSITIONALITY_SETS


@dataclass(frozen=True)
class CompositionalityConfig:
    """Where the sets are; what is null is not measured.

    Attributes:
        sugarcrepe: folder of the seven JSON files, `add_att.json` to `swap_obj.json`.
        sugarcrepe_images: folder of COCO's val2017 images, which they name.
        winoground: folder with `examples.jsonl` and `images`.
    """

    sugarcrepe: str | None = None
    sugarcrepe_images: str | None = None
    winoground: str | None = None

    def __post_init__(self) -> None:
        if (self.sugarcrepe is None) != (self.sugarcrepe_images is None):
            raise ConfigError("sugarcrepe: it belongs together with sugarcrepe_images; set both or neither")


@dataclass(frozen=True)
class ExpectedSizes:
    """How large the split has to be; what is null is not checked. Another size is an error, before anything is measured.

    Attributes:
        images: of the split. COCO's Karpathy test split has 5000, Flickr30K's 1000.
        captions: that its images are asked for, all together. COCO's Karpathy test split has 25010, Flickr30K's 5000.
    """

    images: PositiveInt | None = None
    captions: NonNegativeInt | None = None


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of `evaluate_model`.

    Attributes:
        set_name: middle part of metric keys, as in `retrieval/scenes/mean_recall@1`; of letters, digits, '-', '_', '.';
            not `sugarcrepe` or `winoground`.
        split: which shards to read.
        batch_size: images, or texts, per forward pass; changes speed and memory, not the metrics.
        device: "auto" takes a GPU where there is one.
        examples: in the report, of each kind (failures and evenly spaced queries, both ways, and captions written); 0 for none,
            25 at most, so that the page stays small.
        captioning: let the captioner write a caption for every image that has a reference, and score it by words.
        caption_references: what it is scored by: the image's "synthetic" caption, or all its "human" ones.
        compositionality: sets of the same model beside the split.
        probe_samples: labelled training images from which a linear classifier and the nearest neighbours learn; 0 for neither.
        keep_embeddings: let another evaluation of the same model on the same samples, by the same code, use them again.
        model: what to evaluate instead of the model of `train`: a folder, `models:/NAME@ALIAS`, `models:/NAME/VERSION`,
            `runs:/ID/PATH` or a run id; or one of open_clip: a folder with `open_clip_config.json`, or with `architecture` a
            checkpoint file.
        architecture: open_clip's name of what the checkpoint file holds, such as ViT-B-16.
        expected: sizes of the split, where they are known.
        missing_captions: where some images have captions for retrieval and others none: "refuse", or "skip" those without,
            which then are no queries but stay among the candidates.
        class_names: "set" takes names and templates that came with the set; "imagenet" the 1,000 names and 80 templates of
            open_clip's package, for labels that are ImageNet's.
        long_captions: retrieval by the synthetic captions too, each image to its own one and back (`retrieval_long`).
            Texts longer than the model's context are cut to it, so only their beginning is compared.
    """

    set_name: str = "scenes"
    split: Literal["train", "validation", "test"] = "test"
    batch_size: PositiveInt = 64
    device: Literal["auto", "cpu", "cuda"] = "auto"
    examples: Annotated[int, Ge(0), Le(25)] = 6
    captioning: bool = True
    caption_references: Literal["synthetic", "human"] = "synthetic"
    compositionality: CompositionalityConfig = field(default_factory=CompositionalityConfig)
    probe_samples: NonNegativeInt = 0
    keep_embeddings: bool = True
    model: str | None = None
    architecture: str | None = None
    expected: ExpectedSizes = field(default_factory=ExpectedSizes)
    missing_captions: Literal["refuse", "skip"] = "refuse"
    long_captions: bool = False
    class_names: Literal["set", "imagenet"] = "set"

    def __post_init__(self) -> None:
        if self.architecture is not None and self.model is None:
            raise ConfigError(f"architecture: {self.architecture!r} belongs to a checkpoint; name its file as model")
        if not re.fullmatch(r"[\w.-]+", self.set_name):
            raise ConfigError(
                f"set_name: {self.set_name!r} may hold letters, digits, '-', '_' and '.', and not be empty"
            )
        if self.set_name in COMPOSITIONALITY_SETS:
            raise ConfigError(f"set_name: {self.set_name!r} is the name of another set's results; choose another one")
