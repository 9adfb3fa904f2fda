"""Parameters of `evaluate`."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le

from clips_pipeline.config import ConfigError, NonNegativeInt, PositiveInt
from clips_pipeline.evaluation.metric_keys import COMPOSITIONALITY_SETS


@dataclass(frozen=True)
class CompositionalityConfig:
    """Folders of the compositionality sets; a set whose folder is null is not evaluated.

    Attributes:
        sugarcrepe: folder of the seven JSON files, `add_att.json` to `swap_obj.json`.
        sugarcrepe_images: folder of COCO's val2017 images, to which the JSON files refer.
        winoground: folder with `examples.jsonl` and `images`.
    """

    sugarcrepe: str | None = None
    sugarcrepe_images: str | None = None
    winoground: str | None = None

    def __post_init__(self) -> None:
        if (self.sugarcrepe is None) != (self.sugarcrepe_images is None):
            raise ConfigError("sugarcrepe: requires sugarcrepe_images, and the other way round; set both or neither")


@dataclass(frozen=True)
class ExpectedSizes:
    """Expected sizes of the split. A different size is an error before anything is computed; null is not checked.

    Attributes:
        images: number of images. COCO's Karpathy test split has 5000, Flickr30K's 1000.
        captions: number of retrieval captions of all images. COCO's Karpathy test split has 25010, Flickr30K's 5000.
    """

    images: PositiveInt | None = None
    captions: NonNegativeInt | None = None


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of `evaluate_model`.

    Attributes:
        set_name: middle part of metric keys, as in `retrieval/scenes/mean_recall@1`; consists of letters, digits, '-', '_'
            and '.'; the names of the compositionality sets, such as `sugarcrepe`, are reserved.
        split: split to evaluate.
        batch_size: images, or texts, per forward pass; affects speed and memory, not the metrics.
        device: "auto" uses a GPU if there is one.
        examples: number of examples of each kind in the report (failures and evenly spaced queries in both directions, and
            written captions); 0 for none, at most 25 to keep the page small.
        captioning: write a caption for every image that has a reference caption, and score it by words.
        caption_references: references of the caption scores: the image's "synthetic" caption, or all its "human" captions.
        compositionality: compositionality sets to evaluate in addition to the split.
        probe_samples: number of labeled training images for the linear probe and the nearest-neighbor classifier; 0 for
            neither.
        keep_embeddings: cache embeddings, so that another evaluation of the same model on the same samples reuses them.
        model: model to evaluate instead of the one of `train`: a folder, `models:/NAME@ALIAS`, `models:/NAME/VERSION`,
            `runs:/ID/PATH` or a run id; or a model of open_clip: a folder with `open_clip_config.json`, or, together with
            `architecture`, a checkpoint file.
        architecture: open_clip's name of the checkpoint's architecture, such as ViT-B-16.
        expected: expected sizes of the split.
        missing_captions: if only some images have captions for retrieval: "refuse" is an error, "skip" leaves images without
            captions out as queries and keeps them as candidates.
        class_names: "set" uses the names and templates of the set, "imagenet" the 1,000 names and 80 templates of the
            package open_clip, for sets with ImageNet labels.
        long_captions: also compute retrieval with the synthetic captions, one per image, in both directions
            (`retrieval_long`). Texts longer than the model's context are truncated, so only their beginning counts.
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
            raise ConfigError(
                f"architecture: {self.architecture!r} requires a checkpoint; set model to the checkpoint file"
            )
        if not re.fullmatch(r"[\w.-]+", self.set_name):
            raise ConfigError(
                f"set_name: {self.set_name!r} must consist of letters, digits, '-', '_' and '.'; choose another name"
            )
        if self.set_name in COMPOSITIONALITY_SETS:
            raise ConfigError(
                f"set_name: {self.set_name!r} is reserved for the results of that set; choose another name"
            )
