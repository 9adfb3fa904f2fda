"""Training, the only package that imports Composer. Other packages call `launch.launcher`."""

__all__ = [
    "callbacks",
    "communication",
    "composer_model",
    "config",
    "cost",
    "estimate",
    "events",
    "finetune",
    "launch",
    "machine",
    "optimizer",
    "resolve",
    "resume",
    "run_spec",
    "schedule",
    "sharding",
    "step_timer",
    "trainer",
    "training_run",
]
