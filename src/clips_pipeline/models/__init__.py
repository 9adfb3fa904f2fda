"""The two towers and the captioner, in PyTorch alone."""

__all__ = [
    "blocks",
    "captioner",
    "clips",
    "compiled",
    "flops",
    "fused",
    "grad_cache",
    "init",
    "precision",
    "sizes",
    "text",
    "vision",
]
