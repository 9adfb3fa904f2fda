"""Modules that compute in at least float32 while the towers run in a lower precision.

The authors run towers and captioner in bfloat16 but keep patch convolution, token embedding, the captioner's projections, the
final norms, all heads, the L2 norm and the losses in float32 (docs/explanation/method.md). The modules here do the same, under
autocast and in a model that was converted to bfloat16 or float16. A float64 model stays in float64.

Shapes: ... any leading sizes, I features in, O features out, D width.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from clips_pipeline.models.sizes import EPSILON


def allow_tf32(allowed: bool) -> None:
    """Let a GPU multiply float32 matrices in TF32 (10 bits of mantissa), or not. Without effect on a CPU."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Disable autocast inside the context, on any device."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        yield
        return
    with torch.autocast(device.type, enabled=False):
        yield


def widen(x: Tensor) -> Tensor:
    """Return `x` in at least float32: bfloat16 and float16 are converted, float32 and float64 stay."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def stream_dtype(module: nn.Module, weight: Tensor) -> torch.dtype:
    """Return the dtype of the residual stream: that of the weights, or under autocast bfloat16 if `halve_stream` was called."""
    device = weight.device.type
    if getattr(module, "halves_stream", False) and device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weight.dtype


def halve_stream(model: nn.Module, halves: bool = True) -> None:
    """Let towers and captioner add the outputs of their blocks in autocast's dtype instead of float32, as the authors do."""
    for module in model.modules():
        if hasattr(type(module), "halves_stream"):
            module.halves_stream = halves  # type: ignore[assignment]


def like_weight(x: Tensor, weight: Tensor) -> Tensor:
    """Return `x` in the wider precision of `x` and `weight`, at least float32, so that both can be multiplied."""
    return x.to(torch.promote_types(widen(x).dtype, widen(weight).dtype))


class FullNorm(nn.LayerNorm):
    """Layer norm (..., D) -> (..., D) computed in at least float32, with the method's epsilon."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension."""
        with full_precision(x.device):
            x = like_weight(x, self.weight)
            return functional.layer_norm(
                x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps
            )


class BlockNorm(FullNorm):
    """`FullNorm` whose output has the precision of the weight, for the matrix product that follows."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension."""
        return super().forward(x).to(self.weight.dtype)


class FullLinear(nn.Linear):
    """Bias-free linear map (..., I) -> (..., O) computed in at least float32."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the transposed weight."""
        with full_precision(x.device):
            x = like_weight(x, self.weight)
            return functional.linear(x, self.weight.to(x.dtype))


def unit_rows(x: Tensor) -> Tensor:
    """L2-normalize the last dimension as the authors do: x / (|x| + 1e-8), in at least float32."""
    with full_precision(x.device):
        x = widen(x)
        norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / (norm + 1.0e-8)
