"""The two losses of CLIPS, in PyTorch alone."""
