"""Loading of the model to evaluate: a model of this project or of open_clip."""

from pathlib import Path

from joblib import cpu_count

from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.inference.embed import Embedder, TowerEmbedder, decoding_threads, pick_device
from clips_pipeline.interop.folder import load_model_folder
from clips_pipeline.interop.open_clip_model import is_open_clip, load_open_clip


def load_embedder(model: Path, config: EvaluationConfig) -> TowerEmbedder:
    """Return an `Embedder` for a model folder, or a `TowerEmbedder` for a model of open_clip.

    Args:
        model: a model folder, a folder of open_clip, or, with `config.architecture`, a checkpoint file of open_clip.
        config: batch size, device and architecture.

    Raises:
        ConfigError: the model cannot be loaded, or the tokenizer's vocabulary is larger than the text tower's.
    """
    device = pick_device(config.device)
    threads = decoding_threads(device, cpu_count())
    if is_open_clip(model, config.architecture):
        towers = load_open_clip(model, config.architecture)
        return TowerEmbedder(towers, batch_size=config.batch_size, device=device, threads=threads)
    loaded = load_model_folder(model)
    return Embedder(
        loaded.model,
        loaded.image_transform,
        loaded.tokenizer,
        batch_size=config.batch_size,
        device=device,
        threads=threads,
    )
