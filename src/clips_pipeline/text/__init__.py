"""Text processing of captions: sentences, fragments, tokenizers, and the rows that a model reads. Pure Python."""

__all__ = ["caption_rows", "captions", "escapes", "fragments", "methods", "sentences", "stream_safe", "tokenizers"]
