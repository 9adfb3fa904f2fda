"""The embedded data: rendered scenes, each with a web, a synthetic and five human-style captions; and questions."""

__all__ = [
    "backdrops",
    "brief_captions",
    "human_captions",
    "lexicon",
    "questions",
    "random_integers",
    "raster",
    "render",
    "scene",
    "shapes",
    "source",
    "synthetic_captions",
    "web_captions",
]
