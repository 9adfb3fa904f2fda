"""How many samples a training may see for what they cost. The cost itself is `training.cost`."""

from dataclasses import replace

from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.cost import Captions as Captions
from clips_pipeline.training.cost import captions_of as captions_of
from clips_pipeline.training.cost import flops_per_sample as flops_per_sample


def at_length(config: TrainConfig, samples: int) -> TrainConfig:
    """The same training with whole steps of about so many samples; a schedule stays within them."""
    whole = max(1, round(samples / config.batch_size)) * config.batch_size
    warmup = min(config.optimizer.warmup_samples, whole // 10)
    return replace(config, samples=whole, optimizer=replace(config.optimizer, warmup_samples=warmup))
