"""The evaluation suite: sets in their published form, models on them, and one table of results."""

__all__ = [
    "captioned",
    "class_folders",
    "config",
    "image_set",
    "measure",
    "published_results",
    "run",
    "sets",
    "table",
]
