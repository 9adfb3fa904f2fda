"""The two towers and the captioner, in PyTorch alone."""

__all__ = [
    "attention_masks",
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
