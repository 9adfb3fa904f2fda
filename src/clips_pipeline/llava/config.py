"""Configuration of the LLaVA probe."""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Gt, Le

from clips_pipeline.config import ConfigError, Fraction, NonNegativeFloat, PositiveInt, Seed
from clips_pipeline.text.methods import Method

_Small = Annotated[int, Ge(1), Le(4096)]


@dataclass(frozen=True)
class LanguageConfig:
    """Dimensions of the language model, a small Llama that is trained from scratch.

    Attributes:
        width: width of the tokens, a multiple of twice the heads.
        depth: number of blocks.
        heads: attention heads of each block.
    """

    width: _Small = 64
    depth: Annotated[int, Ge(1), Le(128)] = 2
    heads: Annotated[int, Ge(1), Le(256)] = 4

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            step = 2 * self.heads
            nearest = step * max(1, self.width // step)
            raise ConfigError(f"width: {self.width} is not a multiple of {step}, twice the heads; use {nearest}")


@dataclass(frozen=True)
class QuestionsConfig:
    """Number of questions by split, at most; answers are balanced.

    Attributes:
        train: questions about scenes of the split `train`.
        validation: questions that choose the best epoch.
        test: questions that the accuracies are measured on.
        seed: seed of the choice of questions, the same for all probes.
    """

    train: PositiveInt = 100_000
    validation: PositiveInt = 1_000
    test: PositiveInt = 4_000
    seed: Seed = 0


@dataclass(frozen=True)
class LlavaProbeConfig:
    """Settings of `kedro run --pipelines llava_probe`.

    Attributes:
        methods: methods whose vision towers are probed.
        seeds: seeds of the towers; the language model on a tower has the same seed.
        tower_samples: training samples of a tower; None uses `study.samples`, so that the study's trainings are reused.
        vision_layer: layer whose patches the language model reads, counted from the last one (-1) or from the input (0).
        questions: number of questions.
        language: the language model.
        epochs: passes over the training images.
        batch_size: images per optimizer step, each with all its questions.
        learning_rate: peak of the learning rate, which falls to 0 as a half cosine.
        warmup: fraction of the steps in which the learning rate rises.
        evaluations: number of evaluations on the validation questions; the best one's weights are tested.
        parallel_runs: processes at the same time, each on its part of the cores; None runs one per core.
        hours: no training of a tower starts later than this many hours after the start, nor one of a probe later than this many
            hours after the towers; the results cover what is finished. None sets no limit, 0 trains nothing.
    """

    methods: tuple[Method, ...] = ("clip", "mixture", "coca", "clips")
    seeds: tuple[Seed, ...] = (0, 1, 2)
    tower_samples: PositiveInt | None = None
    vision_layer: Annotated[int, Ge(-1000), Le(1000)] = -2
    questions: QuestionsConfig = field(default_factory=QuestionsConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    epochs: Annotated[float, Gt(0), Le(1000)] = 1.0
    batch_size: Annotated[int, Ge(1), Le(2**20)] = 32
    learning_rate: Annotated[float, Gt(0), Le(1)] = 3.0e-3
    warmup: Fraction = 0.03
    evaluations: Annotated[int, Ge(1), Le(1000)] = 5
    parallel_runs: Annotated[int, Ge(1), Le(1024)] | None = None
    hours: NonNegativeFloat | None = None

    def __post_init__(self) -> None:
        for key in ("methods", "seeds"):
            values = getattr(self, key)
            if not values:
                raise ConfigError(f"{key}: empty; name at least one")
            if len(set(values)) < len(values):
                raise ConfigError(f"{key}: {list(values)} contains duplicates; remove them")
