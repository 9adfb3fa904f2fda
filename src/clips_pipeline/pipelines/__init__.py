"""Kedro pipelines, and what surrounds a `kedro run`: parameter checks, the MLflow run, lineage and the summary."""

__all__ = [
    "address_check",
    "benchmark",
    "check",
    "dry_run",
    "environments",
    "evaluate",
    "export_benchmark",
    "finetune",
    "kedro_run",
    "lineage",
    "other_model",
    "parameters",
    "parameters_reference",
    "prepare",
    "register",
    "run_identity",
    "search",
    "study",
    "summary",
    "train",
]
