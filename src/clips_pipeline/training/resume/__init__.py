"""What a training resumes from: run folder, checkpoints, initial weights."""

__all__ = ["checkpoint_callback", "checkpoint_store", "initial_weights", "run_folder", "snapshot"]
