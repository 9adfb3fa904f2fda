"""Tokenizers: WordPiece, CLIP's byte-pair encoding, and training of a vocabulary."""

__all__ = ["bpe", "tokenizer", "train_vocabulary", "wordpiece"]
