"""The contrastive loss, the caption loss and their weighted sum, in PyTorch alone."""

__all__ = ["caption", "contrastive", "gather", "total"]
