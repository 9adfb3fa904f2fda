"""Whether the fused MLPs keep their hidden layers for the backward pass, or compute them again (`train.launch.recompute`)."""

from clips_pipeline.io.free_memory import free_memory
from clips_pipeline.models.sizes import MLP_RATIO, ClipsConfig
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.resolve import fragment_lengths

MEMORY_FRACTION = 0.25
"""Fraction of the free memory that the hidden layers of all ranks of a machine may take."""


def keeps_hidden_layers(
    config: TrainConfig, model: ClipsConfig, samples: int, *, ranks_here: int, on_gpu: bool
) -> bool:
    """Return whether hidden layers are kept. The result is the same to the bit, so it may differ when a training resumes.

    With "auto" on a CPU they are kept where memory allows. Chunks and blocks that run again keep them always: nothing is computed
    three times.

    Args:
        config: the training.
        model: its model.
        samples: samples of a rank whose activations exist at a time.
        ranks_here: ranks of this machine.
        on_gpu: whether this rank trains on a GPU, where no MLP is fused.
    """
    if config.launch.recomputation != "auto":
        return True
    return not on_gpu and ranks_here * samples * hidden_bytes(config, model) <= MEMORY_FRACTION * free_memory()


def hidden_bytes(config: TrainConfig, model: ClipsConfig) -> int:
    """Return the bytes of the hidden layers of one sample in float32, with full rows."""
    vision, text, captioner, captions = model.vision, model.text, model.captioner, config.captions
    patches = (vision.image_size // vision.patch_size) ** 2
    numbers = vision.depth * (patches + 1) * vision.width
    if model.text_tower:
        # The last block of a fragment is computed at [CLS] only, that of the captioner at its queries only.
        tokens = text.depth * captions.context_length
        tokens += sum((text.depth - 1) * length + 1 for length in fragment_lengths(config))
        numbers += tokens * text.width
    if captioner is not None:
        queries = captions.target_length
        tokens = (captioner.depth - 1) * (patches + captions.context_length + queries) + queries
        numbers += tokens * captioner.width
    return 4 * MLP_RATIO * numbers
