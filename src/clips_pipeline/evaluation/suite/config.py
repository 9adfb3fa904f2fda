"""Parameters of `suite`: the sets, the models, and how they are run. Does not import torch."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Le

from clips_pipeline.config import ConfigError, NonNegativeInt, PositiveInt

Group = Literal["retrieval", "long captions", "compositionality", "zero-shot", "VTAB"]

CaptionedKind = Literal["karpathy", "caption_list", "urban1k", "docci", "dci", "iiw", "sharegpt4v"]
ClassKind = Literal["class_folders", "objectnet"]
PairKind = Literal["sugarcrepe", "sugarcrepe_pp", "winoground", "mmvp_vlm"]
PAIR_KINDS: tuple[str, ...] = get_args(PairKind)

NEEDS_IMAGES_PATH = ("karpathy", "caption_list", "iiw", "sharegpt4v", "sugarcrepe", "sugarcrepe_pp")
"""Kinds whose published file names images of another folder."""

MOST_MODELS = 20


@dataclass(frozen=True)
class SetConfig:
    """One evaluation set in its published form.

    Attributes:
        kind: form of the files: `clip_benchmark` (tar files of CLIP_benchmark, local or remote), `karpathy` (Karpathy's JSON),
            `caption_list` (a JSON list of image and caption, as in FLAIR and ALBEF), `class_folders` and `objectnet` (a folder
            per class), or the name of a set.
        group: heading of the set in the table.
        path: the set's folder or file, or the address of a `clip_benchmark` set; null or a missing path lists it as absent.
        images_path: folder of the images that the file at `path` names.
        split: split to evaluate: of a `clip_benchmark` set, of Karpathy's JSON, of DOCCI, or of DCI (`all` for all images).
        classes: labels of `class_folders`: `imagenet` has all 1,000 classes, the other two have 200.
        images: published number of images; another number is an error, null is not checked.
        captions: published number of captions; another number is an error, null is not checked.
        entries: published number of entries of a compositionality set; another number is an error, null is not checked.
        origin: where the set is published, for the table.
        license: license of the set, for the table.
    """

    kind: Literal["clip_benchmark"] | CaptionedKind | ClassKind | PairKind
    group: Group
    path: str | None = None
    images_path: str | None = None
    split: str = "test"
    classes: Literal["imagenet", "imagenet_a", "imagenet_r"] = "imagenet"
    images: NonNegativeInt | None = None
    captions: NonNegativeInt | None = None
    entries: NonNegativeInt | None = None
    origin: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        needs = self.kind in NEEDS_IMAGES_PATH
        if needs and self.path is not None and self.images_path is None:
            raise ConfigError(f"images_path: a set of kind {self.kind} names images of another folder; give the folder")
        if not needs and self.images_path is not None:
            raise ConfigError(f"images_path: a set of kind {self.kind} has its images at `path`; remove images_path")


@dataclass(frozen=True)
class ModelConfig:
    """One model.

    Attributes:
        model: a folder, `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/ID/PATH`; or a model of open_clip: a folder with
            `open_clip_config.json`, or, together with `architecture`, a checkpoint file.
        architecture: open_clip's name of the checkpoint's architecture, such as ViT-B-16.
        name: name in the table; null takes the last parts of `model`.
    """

    model: str
    architecture: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class SuiteConfig:
    """Evaluation of models on a suite of sets.

    Attributes:
        models: models to evaluate, the first is the one the others are compared with: text with `::` between several, or a
            list; null takes the trained model.
        sets: evaluation sets by name.
        only: names of the sets to evaluate; empty for all.
        batch_size: images, or texts, per forward pass; affects speed and memory.
        device: a torch device name; `auto` takes a GPU if there is one.
        precision: precision of the towers: `fp32`, `bf16`, or `auto`, which is bf16 on a GPU and fp32 on a CPU.
        processes: number of processes that share the sets; with GPUs, each takes the next one. Null is one per GPU, or one.
        resamples: number of resamples of the bootstrap of all intervals.
        keep_embeddings: cache embeddings, so that another evaluation of the same model on the same set reuses them.
        published: YAML file of published results to show beside the models (docs/how-to/suite.md); null for none.
    """

    models: str | tuple[str | ModelConfig, ...] | None = None
    sets: dict[str, SetConfig] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    batch_size: PositiveInt = 64
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    processes: Annotated[int, Ge(1), Le(1024)] | None = None
    resamples: Annotated[int, Ge(100), Le(1_000_000)] = 10_000
    keep_embeddings: bool = True
    published: str | None = None

    def __post_init__(self) -> None:
        for name, found in self.sets.items():
            if not re.fullmatch(r"[\w.-]+", name):
                raise ConfigError(
                    f"sets: {name!r} must consist of letters, digits, '-', '_' and '.'; choose another name"
                )
            # Their metrics have the kind in place of the name of a set.
            if (found.kind in PAIR_KINDS or name in PAIR_KINDS) and name != found.kind:
                raise ConfigError(
                    f"sets.{name}: a set of kind {found.kind} cannot have this name; name it {found.kind}"
                )
        if unknown := set(self.only) - set(self.sets):
            raise ConfigError(
                f"only: {', '.join(sorted(unknown))}: no such set; known: {', '.join(self.sets) or 'none (use --env suite)'}"
            )
        if len(self.chosen_models()) > MOST_MODELS:
            raise ConfigError(f"models: {len(self.chosen_models())} models; give at most {MOST_MODELS}")

    def chosen_sets(self) -> dict[str, SetConfig]:
        """Return the sets to evaluate, by name, in their order."""
        return {name: found for name, found in self.sets.items() if not self.only or name in self.only}

    def chosen_models(self) -> tuple[ModelConfig, ...]:
        """Return the models; empty for the trained one."""
        if self.models is None:
            return ()
        given = self.models.split("::") if isinstance(self.models, str) else self.models
        models = tuple(ModelConfig(one) if isinstance(one, str) else one for one in given)
        if not models or any(not one.model.strip() for one in models):
            raise ConfigError("models: an empty name; give at least one model, or null for the trained one")
        return models
