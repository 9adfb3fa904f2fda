"""Registered versions: packaging, model card, the gate, and the champion."""

__all__ = ["champion", "compare_models", "gate", "model_card", "model_report", "packaging", "pyfunc_model", "register"]
