"""Data: sources, preparation of shards, storage, images, and the training loader."""

__all__ = ["images", "limits", "loading", "look", "prepare", "scenes", "shards", "sources", "storage"]
