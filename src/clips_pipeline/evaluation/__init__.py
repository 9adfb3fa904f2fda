"""Evaluation of trained models: retrieval, zero-shot classification, captioning, compositionality, linear probe."""

__all__ = [
    "config",
    "embedding_map",
    "evaluate",
    "example_selection",
    "inference",
    "int8_recall",
    "metric_keys",
    "metrics",
    "model_loading",
    "per_item",
    "published_files",
    "report_data",
    "results",
    "split_check",
    "suite",
]
