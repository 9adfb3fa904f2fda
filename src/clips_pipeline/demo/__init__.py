"""The embedded data: rendered scenes, each with a web, a synthetic and five human-style captions."""
