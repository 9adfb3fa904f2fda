"""Configuration of a training (`train` in the parameters), as frozen dataclasses. Does not import torch."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from clips_pipeline.config import (
    ConfigError,
    FormerName,
    LaterField,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
)
from clips_pipeline.data.images.transforms import AugmentConfig, PreprocessConfig
from clips_pipeline.data.loading.order import WINDOW_SAMPLES
from clips_pipeline.models.sizes import SizeConfig
from clips_pipeline.text.caption_rows import CaptionConfig
from clips_pipeline.text.methods import CAPTIONING_METHODS, CONTRASTIVE_METHODS, Method

OptimizerOption = bool | int | float | str | tuple[float, ...] | None
ProcessCount = Annotated[int, Ge(1), Le(1024)]


@dataclass(frozen=True)
class ModelConfig:
    """The model to train.

    Attributes:
        size: a named size, or a mapping of dimensions, which may change those of a named size (`base`).
        image_size: pixels per side; None is the default of the size.
        padding: "attend": PAD tokens are keys like any other, as published and as published weights need; "mask" hides them.
        condition: whether the captioner reads the text tower's tokens before or after the final norm.
        initial_weights: model to start from, with a new optimizer: the folder of an exported model, models:/NAME@ALIAS, or the
            id of an MLflow run. A captioner that it lacks starts from scratch. In a run spec it is always a folder.
        vision_weights: open_clip checkpoint for the vision tower only.
        text_weights: open_clip checkpoint for the text tower only.
        patch_dropout: fraction of the patches of each training image that the vision tower does not see.
        image_tokens_kept: fraction of the vision tower's tokens that the captioner reads in training, another draw at each step;
            OpenVision 2 keeps 0.25 to 0.35.
    """

    size: str | SizeConfig = "tiny"
    image_size: Annotated[int, Ge(1), Le(4096)] | None = None
    padding: Literal["attend", "mask"] = "mask"
    condition: Literal["before_norm", "after_norm"] = "before_norm"
    initial_weights: str | None = None
    vision_weights: str | None = None
    text_weights: str | None = None
    patch_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    image_tokens_kept: Annotated[float, Gt(0), Le(1), LaterField()] = 1.0


@dataclass(frozen=True)
class ProgressiveConfig:
    """Resolution that grows during the training.

    Attributes:
        first_size: pixels per side at the first step.
        until: fraction of all steps after which the resolution is the full image size.
    """

    first_size: Annotated[int, Ge(1), Le(4096)] = 32
    until: Annotated[float, Gt(0), Le(1)] = 0.5


@dataclass(frozen=True)
class LossConfig:
    """Kind of the contrastive loss, and weights of the two losses in the total (CLIPS: 1 and 2).

    Attributes:
        contrastive: "softmax" is InfoNCE, as in CLIPS; "sigmoid" is SigLIP's loss, which adds a bias to the model.
        contrastive_weight: weight of the contrastive loss.
        caption_weight: weight of the caption loss.
    """

    contrastive_weight: NonNegativeFloat = 1.0
    caption_weight: NonNegativeFloat = 2.0
    contrastive: Annotated[Literal["softmax", "sigmoid"], LaterField()] = "softmax"

    def __post_init__(self) -> None:
        if self.contrastive_weight + self.caption_weight == 0:
            raise ConfigError("caption_weight: one of the two loss weights must be above 0; both are 0")


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, with a linear warm-up and a cosine decay; weight decay acts on matmul weights only.

    Attributes:
        name: "adamw", "muon" (hidden matrices; AdamW for all other parameters), "lamb", or another optimizer of the package timm.
        options: further arguments of the optimizer, by its own names, such as {momentum: 0.95}; not for adamw.
        peak_lr: learning rate at the end of the warm-up.
        beta1: decay rate of the first moment, for optimizers that have one; so are the next two.
        beta2: decay rate of the second moment.
        epsilon: added to the denominator.
        weight_decay: weight decay, decoupled in AdamW.
        clip_norm: upper bound of the global gradient norm; None does not clip.
        warmup_samples: samples of the warm-up.
        final_lr: learning rate of the last step.
    """

    name: Annotated[str, LaterField()] = "adamw"
    options: Annotated[dict[str, OptimizerOption], LaterField()] = field(default_factory=dict, hash=False)
    peak_lr: Annotated[float, Gt(0)] = 4.0e-4
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.95
    epsilon: Annotated[float, Gt(0), Le(1)] = 1e-8
    weight_decay: Annotated[float, Ge(0), Le(1000)] = 0.2
    clip_norm: PositiveFloat | None = None
    warmup_samples: NonNegativeInt = 3_000
    final_lr: NonNegativeFloat = 1.0e-4

    def __post_init__(self) -> None:
        if self.name == "adamw" and self.options:
            raise ConfigError("options: adamw has none; set beta1, beta2, epsilon and weight_decay, or another name")
        if self.final_lr > self.peak_lr:
            raise ConfigError(f"final_lr: {self.final_lr} is above peak_lr {self.peak_lr}; lower it")


@dataclass(frozen=True)
class EmaConfig:
    """Exponential moving average of the weights, which is evaluated and exported instead of them.

    Attributes:
        half_life_batches: batches after which the influence of a weight on the average has halved.
    """

    half_life_batches: PositiveInt = 100


@dataclass(frozen=True)
class LaunchConfig:
    """The ranks: number, device, memory, loading, and what to do about failures.

    Attributes:
        processes: number of ranks on this machine.
        start: whether the launcher starts the ranks; false: it writes the run spec, and torchrun, SLURM or Kubernetes does.
        sharding: "fsdp2" shards parameters, gradients and optimizer state over the ranks.
        device: "auto" uses GPUs if there are any.
        precision: precision of the matrix products; amp_bf16 needs a GPU.
        chunk_size: samples of a rank whose activations are held at a time; the losses still see the whole batch. None: all.
        recompute: what the backward pass computes again to save memory. "auto": "chunk" with `chunk_size`; else nothing, except
            the hidden layers of MLPs on a CPU where they would take more than a quarter of the free memory. "none": nothing, not
            even those. "block": every block. "chunk": every chunk.
        residual: precision of the sums between blocks; bf16, as the authors have it, needs amp_bf16.
        communication: precision of what ranks send each other: features, gradients and their sums, and with fsdp2 and amp_bf16
            without chunks, the weights of the blocks. bf16 halves the bytes; the ring of the sigmoid loss stays in fp32.
        tf32: whether a GPU may multiply float32 matrices in TF32 (10 bits of mantissa): the heads, and everything with fp32.
        compile: whether the transformer blocks are compiled by torch.compile; None: on a GPU without sharding.
        round_lengths_to: computed text columns and caption queries are rounded up to multiples of this. On a GPU, fewer different
            shapes mean fewer plans and compilations; the result is the same.
        loader_workers: loader workers of each rank; 0 prepares batches between the steps; "auto" chooses by cores and images.
        prefetch_batches: batches that the loader workers of a rank prepare ahead.
        device_color_jitter: whether the device applies the color changes of `augment`, to a whole batch at once, instead of the
            loader. The same changes are drawn; pixels differ by at most 1 of 255.
        background_checkpoints: whether steps go on while a checkpoint is written, which needs memory for a copy of weights and
            optimizer state on rank 0; false: the step waits.
        threads: torch threads of each rank; None: as many as it has cores for itself.
        stall_warning_s: seconds of waiting for one batch after which to warn.
        on_change: what to do if parameters or data differ from those of an unfinished training: "refuse", or "restart" in
            another run folder.
        rank_timeout_s: seconds without a heartbeat, or in one collective operation, after which a rank counts as dead.
        restarts: how often all ranks are restarted from the last checkpoint when one fails, dies or hangs.
    """

    processes: ProcessCount = 1
    start: bool = True
    sharding: Literal["none", "fsdp2"] = "none"
    device: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["fp32", "amp_bf16"] = "fp32"
    chunk_size: PositiveInt | None = None
    recompute: Literal["auto", "none", "block", "chunk"] = "auto"
    residual: Literal["fp32", "bf16"] = "fp32"
    communication: Literal["fp32", "bf16"] = "fp32"
    tf32: bool = True
    compile: bool | None = None
    round_lengths_to: Annotated[int, Ge(1), Le(128)] = 1
    loader_workers: Annotated[int, Ge(0), Le(1024)] | Literal["auto"] = 0
    prefetch_batches: ProcessCount = 2
    device_color_jitter: bool = False
    background_checkpoints: bool = True
    threads: ProcessCount | None = None
    stall_warning_s: PositiveFloat = 30.0
    on_change: Annotated[
        Literal["refuse", "restart"], FormerName("if_changed", values=(("begin_anew", "restart"),))
    ] = "refuse"
    rank_timeout_s: Annotated[float, Ge(1)] = 300.0
    restarts: Annotated[int, Ge(0), Le(1_000_000)] = 0

    def __post_init__(self) -> None:
        if self.compile and self.sharding != "none":
            raise ConfigError("compile: it is not tested with sharding fsdp2; switch one of them off")
        if self.device == "cpu" and self.precision != "fp32":
            raise ConfigError("precision: amp_bf16 needs a GPU; on a CPU set fp32")
        if self.residual == "bf16" and self.precision != "amp_bf16":
            raise ConfigError("residual: bf16 needs precision amp_bf16; set both, or residual fp32")
        if (self.recompute == "chunk") != (self.chunk_size is not None) and self.recompute != "auto":
            raise ConfigError(
                f"recompute: {self.recompute!r} does not fit chunk_size {self.chunk_size}: chunks are computed again and nothing "
                "else is; set auto or chunk with a chunk_size, and none, block or auto without"
            )

    @property
    def recomputation(self) -> Literal["auto", "none", "block", "chunk"]:
        """The policy of `recompute`, with "chunk" for "auto" where there are chunks."""
        return "chunk" if self.chunk_size is not None else self.recompute

    def compiles(self, *, on_gpu: bool) -> bool:
        """Return whether the blocks are compiled."""
        return on_gpu and self.sharding == "none" if self.compile is None else self.compile


@dataclass(frozen=True)
class IntervalConfig:
    """Intervals in optimizer steps. The last step always logs, evaluates and saves.

    Attributes:
        log: steps between two `step` events.
        evaluate: steps between two evaluations on held-out samples.
        checkpoint: steps between two checkpoints.
        keep_checkpoints: number of checkpoints to keep.
        caption_examples: number of held-out images that are captioned at every evaluation.
    """

    log: PositiveInt = 10
    evaluate: PositiveInt = 500
    checkpoint: PositiveInt = 500
    keep_checkpoints: PositiveInt = 2
    caption_examples: Annotated[int, Ge(0), Le(1000)] = 6


@dataclass(frozen=True)
class TrainConfig:
    """One training run, from shards to an exported model.

    Attributes:
        method: what is contrasted and what is captioned (table in `text.methods`).
        model: the model.
        captions: how captions become rows of ids.
        images: preprocessing that training and evaluation share.
        augment: random augmentation of training images.
        loss: kind and weights of the losses.
        optimizer: the optimizer and its schedule.
        ema: moving average of the weights; None for none.
        freeze: parts that keep their initial weights, e.g. [vision] for locked-image tuning. The logit scale is always trained.
        progressive: resolution that grows; None for none.
        launch: ranks and devices.
        every: intervals.
        samples: training samples of the run.
        batch_size: samples of a step, over all ranks.
        seed: seed of weights, sample order and augmentation.
        shuffle_window: number of samples of a shuffle window, over all shards that a batch reads from.
    """

    method: Method = "clips"
    model: ModelConfig = field(default_factory=ModelConfig)
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    images: PreprocessConfig = field(default_factory=PreprocessConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: EmaConfig | None = None
    freeze: tuple[Literal["vision", "text", "captioner"], ...] = ()
    progressive: ProgressiveConfig | None = None
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    every: IntervalConfig = field(default_factory=IntervalConfig)
    samples: PositiveInt = 100_000
    # The contrastive loss needs at least one negative.
    batch_size: Annotated[int, Ge(2), Le(2**24)] = 64
    seed: Seed = 0
    shuffle_window: PositiveInt = WINDOW_SAMPLES

    def __post_init__(self) -> None:
        method, launch = self.method, self.launch
        contrasts, captions = method in CONTRASTIVE_METHODS, method in CAPTIONING_METHODS
        parts = {"vision"} | ({"text"} if contrasts else set()) | ({"captioner"} if captions else set())
        lacks = " and no ".join([*([] if contrasts else ["text tower"]), *([] if captions else ["captioner"])])
        rules = (
            (
                self.loss.contrastive_weight > 0 or captions,
                f"loss.contrastive_weight: 0, and method {method!r} has no other loss; raise it",
            ),
            (
                self.loss.caption_weight > 0 or contrasts,
                f"loss.caption_weight: 0, and method {method!r} has no other loss; raise it",
            ),
            (
                self.loss.contrastive == "softmax" or contrasts,
                f"loss.contrastive: sigmoid, and method {method!r} has no contrastive loss; remove the key",
            ),
            (
                self.model.image_tokens_kept == 1 or captions,
                f"model.image_tokens_kept: method {method!r} has no captioner, which it is for; remove the key",
            ),
            (
                self.captions.positives == 1 or method == "clips",
                f"captions.positives: {self.captions.positives}, and method {method!r} reads no fragment; remove the key",
            ),
            (
                self.model.text_weights is None or contrasts,
                f"model.text_weights: method {method!r} has no text tower; remove the key",
            ),
            (
                self.optimizer.name == "adamw" or launch.sharding == "none",
                f"optimizer.name: {self.optimizer.name} needs whole matrices or norms of them, which launch.sharding fsdp2 splits; "
                "use adamw, or sharding none",
            ),
            (
                set(self.freeze) <= parts,
                f"freeze: method {method!r} has no {lacks}; its parts are {', '.join(sorted(parts))}",
            ),
            (set(self.freeze) != parts, "freeze: every part is frozen, so nothing would be trained; remove one"),
            (
                not self.freeze or launch.sharding == "none",
                "freeze: it cannot be combined with launch.sharding fsdp2; switch one of them off",
            ),
            (
                not self.model.patch_dropout or launch.chunk_size is None,
                "model.patch_dropout: it cannot be combined with launch.chunk_size; switch one of them off",
            ),
            (
                self.samples >= self.batch_size,
                f"samples: {self.samples} must be at least one batch_size ({self.batch_size})",
            ),
            (
                self.batch_size % launch.processes == 0,
                f"batch_size: {self.batch_size} must be divisible by launch.processes ({launch.processes})",
            ),
            (
                self.optimizer.warmup_samples <= self.samples,
                f"optimizer.warmup_samples: {self.optimizer.warmup_samples} must not exceed samples ({self.samples})",
            ),
        )
        for holds, message in rules:
            if not holds:
                raise ConfigError(message)

    @property
    def steps(self) -> int:
        """Optimizer steps of the run; a last partial batch is not trained."""
        return self.samples // self.batch_size

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps of the linear warm-up."""
        return self.optimizer.warmup_samples // self.batch_size
