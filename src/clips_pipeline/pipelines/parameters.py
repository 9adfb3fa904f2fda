"""The configuration dataclass of each parameter group."""

from typing import Any, Final

from clips_pipeline.batch_inference.config import EmbedConfig, RecaptionRunConfig
from clips_pipeline.config import from_mapping
from clips_pipeline.data.sources.clip_benchmark_export import ExportConfig
from clips_pipeline.data.storage.files import StorageConfig
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.suite.config import SuiteConfig
from clips_pipeline.llava.config import LlavaProbeConfig
from clips_pipeline.pipelines.prepare.config import PrepareConfig
from clips_pipeline.registry.config import RegistryConfig, TrackingConfig
from clips_pipeline.study.config import StudyConfig
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.finetune import FinetuneConfig
from clips_pipeline.tuning.config import SearchConfig

# Kedro could build these from the nodes' type hints, but it does not validate nested dataclasses, and kedro-mlflow would log
# one object in place of its leaves.
TYPES: Final[dict[str, type[Any]]] = {
    "prepare": PrepareConfig,
    "storage": StorageConfig,
    "train": TrainConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluationConfig,
    "register": RegistryConfig,
    "tracking": TrackingConfig,
    "search": SearchConfig,
    "study": StudyConfig,
    "llava_probe": LlavaProbeConfig,
    "export_benchmark": ExportConfig,
    "embed": EmbedConfig,
    "recaption": RecaptionRunConfig,
    "suite": SuiteConfig,
}


def typed(name: str, mapping: dict[str, Any]) -> Any:
    """Return the configuration object of the parameter group `name`.

    Raises:
        ConfigError: unknown key, wrong type or invalid value, with its dotted path.
    """
    return from_mapping(TYPES[name], mapping, where=name)
