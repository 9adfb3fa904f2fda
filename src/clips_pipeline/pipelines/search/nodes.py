"""The search node: an Optuna study whose trials are child runs of this MLflow run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clips_pipeline.config import flatten
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.pipelines.parameters import typed
from clips_pipeline.pipelines.train.nodes import build_run_spec
from clips_pipeline.text.tokenizers.tokenizer import load_tokenizer
from clips_pipeline.training import cost
from clips_pipeline.training.resume.run_folder import choose_run_folder


def search(
    parameters: dict[str, Any],
    train_parameters: dict[str, Any],
    shards: Path,
    tokenizer: Path,
    remote: Any,
    credentials: dict[str, Any],
    environment: dict[str, Any],
    paths: Mapping[str, Path],
) -> tuple[Any, ...]:
    """Search, and write the best parameters as the environment `best`, based on the environment that was searched.

    Returns:
        `conf/best/parameters.yml` (parameters of the searched environment and of the command line, with the best
        values), `conf/best/globals.yml` (the same data, its own folder for results), the table of trials, the folder of
        figures and summary, and the six figures for Kedro-Viz, in the order of `FIGURES`.
    """
    # Imported here: MLflow and Optuna take seconds to import.
    from clips_pipeline.registry.tracking import trial_runs
    from clips_pipeline.registry.tracking.runs import active_run_id
    from clips_pipeline.tuning import figures, search_space, summary, trial
    from clips_pipeline.tuning.search import search as run_search

    def build_spec(trial_parameters: dict[str, Any], trial_folder: Path) -> Any:
        train = typed("train", trial_parameters)
        runs = trial_folder / "runs"
        return choose_run_folder(build_run_spec(train, shards, tokenizer, remote, runs, trial_folder / "model"), runs)

    loaded_tokenizer, captions = load_tokenizer(tokenizer), cost.read_captions(shards, remote)

    def estimate_cost(spec: Any) -> tuple[float, float]:
        lengths = cost.row_lengths(spec.train, captions, loaded_tokenizer)
        return cost.mean_flops(spec.train, lengths, loaded_tokenizer), cost.fragment_tokens(lengths)

    config, folder, report = typed("search", parameters), paths["search_folder"], paths["search_report"]
    options = remote.storage.options
    result = run_search(
        trial.SearchContext(config, train_parameters, build_spec, estimate_cost, trial_runs.child_run, folder, options),
        credentials=credentials,
        parent_run_id=active_run_id(),
        on_parent=lambda run_id: trial_runs.save_parent(folder, config.study_name, run_id),
    )
    report.mkdir(parents=True, exist_ok=True)
    for name, figure in result.figures.items():
        # The page works without a network.
        figure.write_html(report / f"{name}.html", include_plotlyjs=True)
    held_out = load_index(shards).split_samples("validation")
    (report / "summary.md").write_text(summary.summary(result, config, held_out))
    # Also beside the figures: one folder goes to MLflow.
    result.trials.to_csv(report / "trials.csv", index=False)
    trial_runs.log_search(result.parent, config.metric, result.best_value, result.best_parameters, report)
    previews = [result.figures[name] for name in figures.FIGURES]
    # Without model_root: the environment `best` has its own model.
    roots = {key: value for key, value in environment["globals"].items() if key != "model_root"}
    own = environment["parameters"]
    best = {**own, "train": search_space.merge(own.get("train", {}), flatten(result.best_parameters["train"]))}
    return (best, {**roots, "results_root": "data/best"}, result.trials, report, *previews)
