"""Files that a Transformers export contains: `AutoModel.from_pretrained(…, trust_remote_code=True)` imports them there.

They import torch, transformers and `models.plain` alone. `transformers_form` copies them.
"""

__all__ = ["configuration_clips", "modeling_clips"]
