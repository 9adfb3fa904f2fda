"""The model: two towers and the captioner. Depends on PyTorch only."""

__all__ = [
    "attention",
    "attention_masks",
    "blocks",
    "cached_decoding",
    "captioner",
    "clips",
    "compiled",
    "flops",
    "fused",
    "fused_path",
    "grad_cache",
    "init",
    "layout",
    "packing",
    "plain",
    "precision",
    "sizes",
    "text",
    "vision",
]
