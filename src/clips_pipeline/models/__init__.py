"""The two towers and the captioner, in PyTorch alone."""
