"""Registered versions: packaging, model card, the gate, the champion, and comparison of versions."""

__all__ = [
    "champion",
    "compare_models",
    "gate",
    "model_card",
    "model_report",
    "packaging",
    "provenance",
    "pyfunc_model",
    "register",
    "register_imported",
]
