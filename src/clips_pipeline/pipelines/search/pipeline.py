"""From shards to an Optuna study, its best parameters and its report."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.search import nodes

# Equal to `tuning.figures.FIGURES`, whose module loads Optuna.
FIGURES = ("history", "importances", "slices", "parallel_coordinates", "pareto_front", "fragment_length")


def create_pipeline(**options: Any) -> Pipeline:
    """Return the pipeline that makes `best_parameters` (the environment `best`), the trials, the report and its figures."""
    inputs = ["params:search", "params:train", "shards", "tokenizer", "remote_shards", "search_credentials"]
    outputs = [
        "best_parameters",
        "best_globals",
        "search_trials",
        "search_report",
        *(f"search_{name}" for name in FIGURES),
    ]
    node = Node(nodes.search, [*inputs, "searched_environment", "paths"], outputs, name="search_node")
    return Pipeline([node], tags="search")
