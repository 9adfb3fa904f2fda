"""Model folders, conversion of models from and to open_clip, and exports in the forms of other libraries."""

__all__ = ["digest", "export", "folder", "foreign_weights", "open_clip", "open_clip_config", "open_clip_model"]
