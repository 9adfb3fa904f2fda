"""Training: the only package that imports Composer. `launch.launcher` is what the rest of the program calls."""

__all__ = [
    "callbacks",
    "composer_model",
    "config",
    "cost",
    "estimate",
    "events",
    "finetune",
    "launch",
    "optimizer",
    "resolve",
    "resume",
    "run_spec",
    "schedule",
    "sharding",
    "step_timer",
    "trainer",
]
