"""Exports of a trained model in the forms of other libraries, each loaded again there and compared before it is kept."""

__all__ = [
    "check_onnx",
    "check_open_clip",
    "check_transformers",
    "export_model",
    "onnx_form",
    "open_clip_form",
    "readme",
    "remote_code",
    "sentence_transformers_files",
    "transformers_form",
]
