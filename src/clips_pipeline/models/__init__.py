"""The model: two towers and the captioner. Depends on PyTorch only."""

__all__ = [
    "blocks",
    "cached_decoding",
    "captioner",
    "clips",
    "compiled",
    "flops",
    "fused",
    "grad_cache",
    "init",
    "plain",
    "precision",
    "rows",
    "sizes",
    "text",
    "vision",
]
