"""What can be set about a training, as frozen dataclasses. Loads no torch: the Kedro process reads it."""

from dataclasses import dataclass, field
from typing import Literal

from clips_pipeline.config import ConfigError
from clips_pipeline.text.captions import CaptionConfig
from clips_pipeline.text.methods import CAPTIONING, Method


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless `condition`."""
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class ModelConfig:
    """Which model to train. `None` keeps what the named size says."""

    size: str = "tiny"
    image_size: int | None = None
    padding: Literal["attend", "mask"] = "mask"
    condition: Literal["before_norm", "after_norm"] = "before_norm"
    # What starts this training (the next stage of a schedule), with a fresh optimiser: the folder of an exported model,
    # models:/NAME@ALIAS, or the id of an MLflow run. In a run spec it is always a folder.
    initial_weights: str | None = None
    # open_clip checkpoints (safetensors or .pt/.bin) for one tower each.
    vision_weights: str | None = None
    text_weights: str | None = None
    # Share of each training picture's patches that the vision tower does not see.
    patch_dropout: float = 0.0

    def __post_init__(self) -> None:
        require(0.0 <= self.patch_dropout < 1.0, f"patch_dropout is {self.patch_dropout}; use 0 to below 1")


@dataclass(frozen=True)
class ProgressiveConfig:
    """Resolution that grows while the model trains, from `first_size` pixels, within the first `until` of all steps."""

    first_size: int = 32
    until: float = 0.5

    def __post_init__(self) -> None:
        require(self.first_size >= 1, f"first_size is {self.first_size}; at least one patch is needed")
        require(0.0 < self.until <= 1.0, f"until is {self.until}; it is a share of the steps, above 0 and at most 1")


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training images; strength 0 or probability 0 switches one off."""

    crop_area: tuple[float, float] = (0.8, 1.0)
    crop_aspect: tuple[float, float] = (0.75, 1.3333333333333333)
    color_jitter: float = 0.0
    color_jitter_probability: float = 0.8
    grayscale_probability: float = 0.0


@dataclass(frozen=True)
class LossConfig:
    """Weights of the two losses in the total (CLIPS: 1 and 2)."""

    contrastive_weight: float = 1.0
    caption_weight: float = 2.0

    def __post_init__(self) -> None:
        require(self.contrastive_weight >= 0 and self.caption_weight >= 0, "loss weights must not be negative")
        require(self.contrastive_weight + self.caption_weight > 0, "one of the two loss weights must be above 0")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW; decay acts on matmul weights only. `clip_norm`, if set, bounds the global gradient norm."""

    peak_lr: float = 6.0e-4
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.2
    clip_norm: float | None = None
    warmup_samples: int = 3_000
    final_lr: float = 2.0e-4

    def __post_init__(self) -> None:
        require(self.peak_lr > 0, f"peak_lr is {self.peak_lr}; it must be above 0")
        require(0 <= self.final_lr <= self.peak_lr, "final_lr must lie between 0 and peak_lr")
        require(self.warmup_samples >= 0, "warmup_samples must not be negative")
        require(self.clip_norm is None or self.clip_norm > 0, "clip_norm must be above 0, or null for no clipping")


@dataclass(frozen=True)
class EmaConfig:
    """Exponential moving average of the weights, kept beside them and exported in their place."""

    half_life_batches: int = 100

    def __post_init__(self) -> None:
        require(self.half_life_batches > 0, "half_life_batches must be above 0")


@dataclass(frozen=True)
class LaunchConfig:
    """Worker processes on this machine. `device: auto` takes the GPUs where there are some."""

    processes: int = 1
    # False: the run spec is written and followed, and torchrun, SLURM or Kubernetes starts the ranks (docs/cluster.md).
    start: bool = True
    # fsdp2: parameters, gradients and optimiser state are shared out over the ranks, for models too large for one GPU.
    sharding: Literal["none", "fsdp2"] = "none"
    device: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["fp32", "amp_bf16"] = "fp32"
    # Samples of a rank whose activations are held at a time; the losses still see the whole batch. None: all at once.
    chunk_size: int | None = None
    # The transformer blocks go through torch.compile; worth its start-up on a GPU.
    compile: bool = False
    loader_workers: int = 0
    threads: int | None = None  # torch threads per process; None: all cores shared evenly
    stall_warning_s: float = 30.0  # seconds of waiting for one batch that are worth a warning
    # Parameters, or data, differ from those of a training that is unfinished: refuse, or begin another beside it.
    if_changed: Literal["refuse", "begin_anew"] = "refuse"
    # A rank that is silent for so many seconds, or lets the others wait so long, is ended.
    rank_timeout_s: float = 300.0
    # How often all ranks are started again, from the last checkpoint, when one has failed, died or hung.
    restarts: int = 0

    def __post_init__(self) -> None:
        require(self.stall_warning_s > 0, f"stall_warning_s is {self.stall_warning_s}; it must be above 0")
        require(self.rank_timeout_s >= 1, f"rank_timeout_s is {self.rank_timeout_s}; at least 1 is needed")
        require(self.restarts >= 0, f"restarts is {self.restarts}; 0 or more")
        require(self.processes >= 1, f"processes is {self.processes}; at least 1 is needed")
        require(self.loader_workers >= 0, "loader_workers must not be negative")
        require(
            self.chunk_size is None or self.chunk_size >= 1, f"chunk_size is {self.chunk_size}; at least 1, or null"
        )
        require(
            not self.compile or self.sharding == "none",
            "compile and sharding: fsdp2 are not tested together; set one back",
        )
        require(self.device != "cpu" or self.precision == "fp32", "precision amp_bf16 needs a GPU; on a CPU set fp32")


@dataclass(frozen=True)
class IntervalConfig:
    """How often, in optimiser steps. The last step always logs, evaluates and saves."""

    log: int = 10
    evaluate: int = 500
    checkpoint: int = 500
    keep_checkpoints: int = 2
    # Held-out pictures whose captions are shown at every evaluation; 0 for none.
    caption_examples: int = 6

    def __post_init__(self) -> None:
        for name in ("log", "evaluate", "checkpoint", "keep_checkpoints"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; at least 1 is needed")
        require(self.caption_examples >= 0, f"caption_examples is {self.caption_examples}; 0 or more is needed")


@dataclass(frozen=True)
class TrainConfig:
    """One training run, from shards to an exported model."""

    # What is contrasted and what is captioned: `text.methods` has the table.
    method: Method = "clips"
    model: ModelConfig = field(default_factory=ModelConfig)
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: EmaConfig | None = None
    # Parts that keep their initial weights, e.g. (vision,) for locked-image tuning; the temperature always learns.
    freeze: tuple[Literal["vision", "text", "captioner"], ...] = ()
    progressive: ProgressiveConfig | None = None
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    every: IntervalConfig = field(default_factory=IntervalConfig)
    samples: int = 140_000
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            self.loss.contrastive_weight > 0 or self.method in CAPTIONING,
            f"loss.contrastive_weight is 0, and method {self.method!r} has no other loss; raise it",
        )
        self._check_parts()
        require(self.batch_size >= 2, f"batch_size is {self.batch_size}; contrast needs at least 2 samples")
        require(
            self.samples >= self.batch_size,
            f"samples ({self.samples}) must be at least one batch_size ({self.batch_size})",
        )
        require(
            self.batch_size % self.launch.processes == 0,
            f"batch_size ({self.batch_size}) must be divisible by launch.processes ({self.launch.processes})",
        )
        require(
            self.optimizer.warmup_samples <= self.samples,
            f"optimizer.warmup_samples ({self.optimizer.warmup_samples}) must not exceed samples ({self.samples})",
        )

    def _check_parts(self) -> None:
        parts = {"vision", "text"} | ({"captioner"} if self.method in CAPTIONING else set())
        require(
            set(self.freeze) <= parts,
            f"freeze: method {self.method!r} has no captioner; its parts are {', '.join(sorted(parts))}",
        )
        require(set(self.freeze) != parts, "freeze: every part is frozen and nothing would be trained; leave one out")
        require(
            not self.freeze or self.launch.sharding == "none",
            "freeze and launch.sharding: fsdp2 do not go together; set one of them back",
        )
        require(
            not self.model.patch_dropout or self.launch.chunk_size is None,
            "model.patch_dropout and launch.chunk_size do not go together; set one of them back",
        )

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run; a last partial batch is not trained."""
        return self.samples // self.batch_size

    @property
    def warmup_steps(self) -> int:
        """Optimiser steps of linear warm-up."""
        return self.optimizer.warmup_samples // self.batch_size
