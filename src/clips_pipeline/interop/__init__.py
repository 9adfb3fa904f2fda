"""Model folders, conversion of models from and to open_clip, exports in the forms of other libraries, and the hub."""

__all__ = [
    "digest",
    "export",
    "folder",
    "foreign_weights",
    "hub",
    "import_model",
    "open_clip",
    "open_clip_config",
    "open_clip_folder",
    "open_clip_model",
    "torch_archive",
]
