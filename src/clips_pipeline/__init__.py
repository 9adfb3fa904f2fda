"""clips-pipeline: pre-train CLIPS on web and synthetic captions. Importing this package loads nothing heavy."""

__version__ = "0.1.0"
