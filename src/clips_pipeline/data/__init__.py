"""Samples: where they come from, how they become shards, and how a training reads them. Each folder answers one question."""

__all__ = ["images", "loading", "prepare", "scenes", "shards", "sources", "storage"]
