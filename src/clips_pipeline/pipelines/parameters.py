"""Which typed object each `params:` entry becomes."""

from importlib import import_module
from typing import Any

from clips_pipeline.config import from_mapping

# Named, not imported: some stand in modules that import MLflow, which takes seconds that other pipelines and commands should not
# wait for.
TYPES = {
    "prepare": "clips_pipeline.pipelines.prepare.config:PrepareConfig",
    "storage": "clips_pipeline.shards.storage:StorageConfig",
    "train": "clips_pipeline.training.config:TrainConfig",
    "finetune": "clips_pipeline.training.finetune:FinetuneConfig",
    "evaluate": "clips_pipeline.evaluation.config:EvaluationConfig",
    "register": "clips_pipeline.registry.register:RegistryConfig",
    "search": "clips_pipeline.tuning.config:SearchConfig",
    "study": "clips_pipeline.study.config:StudyConfig",
    "export_benchmark": "clips_pipeline.shards.benchmark_export:ExportConfig",
}


def type_of(name: str) -> type[Any]:
    """The dataclass of the parameter group `name`."""
    module, _, cls = TYPES[name].partition(":")
    found: type[Any] = getattr(import_module(module), cls)
    return found


def typed(name: str, mapping: dict[str, Any]) -> Any:
    """The configuration object of the parameter group `name`.

    Raises:
        ConfigError: unknown key, wrong type or impossible value, with its dotted path.
    """
    return from_mapping(type_of(name), mapping, where=name)
