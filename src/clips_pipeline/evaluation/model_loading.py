"""The model that is to be evaluated, from its files: one of this project, or any of open_clip."""

from pathlib import Path

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.inference.embed import Embedder, TowerEmbedder, pick_device
from clips_pipeline.interop.folder import load_model_folder
from clips_pipeline.interop.open_clip_model import is_open_clip, load_open_clip


def load_embedder(model: Path, config: EvaluationConfig) -> TowerEmbedder:
    """An `Embedder` for an exported model; for one of open_clip the towers alone.

    Args:
        model: a folder that `train` exported, a folder of open_clip, or with `config.architecture` a checkpoint of open_clip.
        config: batch size, device and architecture.

    Raises:
        ConfigError: it cannot be loaded, or its tokenizer knows more pieces than the model.
    """
    device = pick_device(config.device)
    if is_open_clip(model, config.architecture):
        towers = load_open_clip(model, config.architecture)
        return TowerEmbedder(towers, batch_size=config.batch_size, device=device)
    loaded = load_model_folder(model)
    known, pieces = loaded.model.config.text.vocab_size, loaded.tokenizer.vocab_size
    if pieces > known:
        raise ConfigError(
            f"{model}: its tokenizer knows {pieces} pieces and its text tower {known}; the tokenizer is another model's"
        )
    return Embedder(loaded.model, loaded.image_transform, loaded.tokenizer, batch_size=config.batch_size, device=device)
