"""Node of the `suite` pipeline."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from clips_pipeline.config import ConfigError
from clips_pipeline.evaluation.suite.config import ModelConfig, SuiteConfig
from clips_pipeline.pipelines.other_model import folder_name
from clips_pipeline.pipelines.parameters import typed


def suite(parameters: dict[str, Any], remote: Any, paths: Mapping[str, Path]) -> Path:
    """Evaluate all models on all sets that are present, write the table, and log it to the active MLflow run."""
    # Imported here because they load torch or MLflow.
    from clips_pipeline.evaluation.suite.published_results import read_published
    from clips_pipeline.evaluation.suite.run import run_suite
    from clips_pipeline.evaluation.suite.table import make_table
    from clips_pipeline.registry.tracking.runs import active_run_id
    from clips_pipeline.registry.tracking.suite_log import log_set_items, log_suite
    from clips_pipeline.reports.suite_results import write_suite

    config: SuiteConfig = typed("suite", parameters)
    if not config.sets:
        raise ConfigError("suite.sets: empty; name the sets, or use `--env suite`, which names the published ones")
    published = read_published(config.published, tuple(config.sets))
    models = _models(config, paths)
    outcome = run_suite(
        config, models, remote.storage, paths["suite_folder"], paths["embeddings"] if config.keep_embeddings else None
    )
    if not outcome.present:
        raise ConfigError(
            f"suite.sets: none of the {len(outcome.absent)} sets is here; the first is {outcome.absent[0].name}: "
            f"{outcome.absent[0].reason}. Download the sets (docs/how-to/suite.md)"
        )
    report = write_suite(make_table(outcome, published, config.resamples), paths["suite_report"])
    run_id = active_run_id()
    several = len(models) > 1
    metrics: dict[str, float] = {}
    for model in models:
        for opened in outcome.present:
            result = outcome.load(opened.name, model)
            prefix = f"{model.name}/" if several else ""
            metrics |= {f"{prefix}{name}": value for name, value in result.metrics.items()}
            log_set_items(run_id, folder_name(model.name) if several else None, opened.name, result.rows)
    log_suite(run_id, metrics, report)
    return report


def _models(config: SuiteConfig, paths: Mapping[str, Path]) -> list[Any]:
    """Return the models as files of this machine, each under a name of its own."""
    from clips_pipeline.evaluation.suite.run import SuiteModel
    from clips_pipeline.registry.versions.packaging import resolve_model_folder

    chosen = config.chosen_models()
    if not chosen:
        folder = paths["clips_model"]
        if not folder.exists():
            raise ConfigError(f"suite.models: {folder} does not exist; train a model, or name models with suite.models")
        return [SuiteModel.at("trained model", folder)]
    names = [one.name or _short_name(one, paths["clips_model"]) for one in chosen]
    found = []
    for number, (one, name) in enumerate(zip(chosen, names, strict=True)):
        path = resolve_model_folder(one.model, "suite.models")
        if not path.exists():
            raise ConfigError(
                f"suite.models: {one.model}: no such file or folder; give a model's folder or its MLflow name"
            )
        unique = name if names.count(name) == 1 else f"{name} ({names[: number + 1].count(name)})"
        found.append(SuiteModel.at(unique, path, one.architecture))
    return found


def _short_name(model: ModelConfig, clips_model: Path) -> str:
    """Return the last parts of a path or URI: `models:/clips@champion` becomes `clips@champion`.

    The model of an environment, in the folder where the catalog puts it, has the name of the environment's folder.
    """
    parts = PurePosixPath(model.model.removeprefix("models:/").removeprefix("runs:/")).parts
    if len(parts) > 2 and parts[-2:] == clips_model.parts[-2:]:
        return parts[-3]
    return "/".join(parts[-2:])
