"""Model folders, and conversion of models from and to open_clip."""

__all__ = ["digest", "folder", "open_clip", "open_clip_model"]
