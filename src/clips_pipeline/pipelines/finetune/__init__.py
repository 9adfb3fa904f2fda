"""The `finetune` pipeline."""
