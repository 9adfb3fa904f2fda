"""A study: fragment lengths and methods compared over several seeds."""

__all__ = ["config", "figures", "job", "plan", "run", "summary", "table"]
