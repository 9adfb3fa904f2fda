"""Contrastive loss, caption loss and their weighted sum. Depends on PyTorch only."""

__all__ = ["caption", "contrastive", "gather", "precision", "sigmoid", "total"]
