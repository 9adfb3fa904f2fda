"""Model folders, and conversion of models from and to open_clip."""

__all__ = ["digest", "folder", "foreign_weights", "open_clip", "open_clip_config", "open_clip_model"]
