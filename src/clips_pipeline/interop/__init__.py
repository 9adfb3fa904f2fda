"""Model folders, and models of open_clip: weights in safetensors, converted key by key."""

__all__ = ["digest", "folder", "open_clip", "open_clip_model"]
