"""Shards to an Optuna study and the best parameters."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.search import nodes


def create_pipeline(**options: Any) -> Pipeline:
    """`best_parameters` (the environment `best`) and the table of trials."""
    return Pipeline(
        [
            Node(
                nodes.search,
                ["params:search", "params:train", "shards", "tokenizer", "remote_shards", "search_folder_target"],
                ["best_parameters", "best_globals", "search_trials"],
                name="search_node",
            )
        ],
        tags="search",
    )
