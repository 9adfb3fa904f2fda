"""The method study: methods, caption lengths and ablations compared over several seeds."""

__all__ = ["config", "figures", "job", "plan", "run", "summary", "table"]
