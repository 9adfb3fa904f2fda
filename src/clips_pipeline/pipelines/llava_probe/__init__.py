"""The `llava_probe` pipeline: what a small language model can tell from the towers of the methods."""
