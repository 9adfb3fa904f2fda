"""Source to shards to tokenizer."""

from typing import Any

from kedro.pipeline import Node, Pipeline

from clips_pipeline.pipelines.prepare import nodes


def create_pipeline(**options: Any) -> Pipeline:
    """`shards`, `tokenizer` and the contact sheet from `params:prepare`."""
    return Pipeline(
        [
            Node(
                nodes.prepare_shards,
                ["params:prepare", "remote_shards", "caption_tables_target", "shards_target"],
                "shards",
                name="prepare_shards_node",
            ),
            Node(
                nodes.make_tokenizer,
                ["params:prepare", "shards", "remote_shards", "tokenizer_target"],
                "tokenizer",
                name="make_tokenizer_node",
            ),
            Node(
                nodes.draw_contact_sheet,
                ["shards", "remote_shards", "contact_sheet_target"],
                "contact_sheet",
                name="draw_contact_sheet_node",
            ),
        ],
        tags="prepare",
    )
