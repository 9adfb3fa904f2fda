"""Captions: sentences, fragments, tokenizers and the id rows a model reads. Pure: no tensors, no files of data sets."""
