# ruff: noqa: N815  (fields carry shape suffixes in capitals)
"""Attention without a dense mask, for every arrangement of rows. CLIPS paper, section 3.

| rows | tokens of | PyTorch call |
| --- | --- | --- |
| `None` | images, and texts whose PAD is attended to | `scaled_dot_product_attention` without a mask; flash for a tail |
| `Packing` | texts without PAD | flash attention for rows of unequal length |
| `PrefixRows` | captioner, prefixes of equal length | no mask for the prefix; flash, causal to the lower right, for queries |
| `PackedPrefixRows` | captioner, prefixes without PAD | the two flash calls for rows of unequal length |

Flash attention needs an accelerator and bfloat16 or float16. Elsewhere (float32, CPU) rows of unequal length are padded, and
queries get a mask. `aten._flash_attention_forward` is called directly: it is the kernel of
`torch.nn.attention.varlen` (torch 2.10 and later, with another signature in each version), and exists since torch 2.4.

The tail of a row is what its last block computes: the last token of a text, or the queries of the captioner. A query of the tail
attends to all tokens before it and to itself.

Shapes: B rows, S positions, P prefix, Q queries, N tokens, M tokens of the tail, H heads, K width of a head, D = H * K.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional

from clips_pipeline.models.rows.packing import Lengths, Packing, row_of


class PrefixRows(NamedTuple):
    """Rows (B, P + Q, D) of the captioner: a prefix of `length` tokens, then queries."""

    length: int


class PackedPrefixRows(NamedTuple):
    """Packed rows of the captioner: first the prefixes of all rows, then the queries of all rows.

    `order_N` sorts the tokens by rows (prefix, then queries), `place_N` is its inverse; `joined` are the lengths of these rows.
    """

    prefix_tokens: int
    prefix: Lengths
    tail: Lengths
    joined: Lengths
    order_N: Tensor
    place_N: Tensor

    @classmethod
    def of(cls, prefix: Packing, queries: Packing) -> "PackedPrefixRows":
        """Compute the order from both packings, without waiting for the device."""
        prefix_R, tail_R = prefix.lengths.offsets_R.long(), queries.lengths.offsets_R.long()
        count, own = len(prefix.index_N), len(queries.index_N)
        prefix_row, tail_row = row_of(prefix_R, count), row_of(tail_R, own)
        tokens = torch.arange(count + own, device=prefix_R.device)
        place_N = torch.cat([tokens[:count] + tail_R[prefix_row], tokens[:own] + prefix_R[tail_row + 1]])
        order_N = torch.empty_like(place_N).index_copy_(0, place_N, tokens)
        joined = Lengths((prefix_R + tail_R).int(), prefix.lengths.longest + queries.lengths.longest)
        return cls(count, prefix.lengths, queries.lengths, joined, order_N, place_N)


Rows = Packing | PrefixRows | PackedPrefixRows | None


def attend(q: Tensor, k: Tensor, v: Tensor, rows: Rows) -> Tensor:
    """Let all tokens attend, (B, S, H, K) or (N, H, K) -> the same shape."""
    if rows is None:
        return _everywhere(q, k, v)
    if isinstance(rows, Packing):
        return _unequal(q, k, v, rows.lengths, rows.lengths)
    if isinstance(rows, PrefixRows):
        length = rows.length
        prefix = _everywhere(q[:, :length], k[:, :length], v[:, :length])
        return torch.cat([prefix, attend_tail(q[:, length:], k, v, rows)], dim=1)
    count = rows.prefix_tokens
    prefix = _unequal(q[:count], k[:count], v[:count], rows.prefix, rows.prefix)
    return torch.cat([prefix, attend_tail(q[count:], k, v, rows)])


def attend_tail(q: Tensor, k: Tensor, v: Tensor, rows: Rows) -> Tensor:
    """Let the tail attend; `q` has its tokens only (`tail`), `k` and `v` have all."""
    if rows is None:
        # One query a row. `scaled_dot_product_attention` may leave it to cuDNN, whose backward pass with one query was reported to
        # fail (pytorch/pytorch#138529).
        return _flash(q, k, v, None, None, causal=False) if has_flash(q) else _everywhere(q, k, v)
    if isinstance(rows, Packing):
        # One query a row, which sees all of it.
        offsets_R = torch.arange(len(rows.lengths.offsets_R), dtype=torch.int32, device=q.device)
        return _unequal(q, k, v, Lengths(offsets_R, 1), rows.lengths)
    if isinstance(rows, PrefixRows):
        return _equal_causal(q, k, v)
    k, v = (reorder(part, rows.order_N, rows.place_N) for part in (k, v))
    return _unequal(q, k, v, rows.tail, rows.joined, causal=True)


def tail(x: Tensor, rows: Rows) -> Tensor:
    """Return the tail of all rows: (B, 1, D) of (B, S, D), (B, Q, D) of the captioner's, (M, D) of packed rows."""
    if rows is None:
        return x[:, -1:]
    if isinstance(rows, Packing):
        return x.index_select(0, rows.last_token())
    return x[:, rows.length :] if isinstance(rows, PrefixRows) else x[rows.prefix_tokens :]


def reorder(x: Tensor, order_N: Tensor, place_N: Tensor) -> Tensor:
    """Return `x[order_N]`. `place_N` is the inverse order, by which the gradient is gathered instead of added."""
    return cast(Tensor, _Reorder.apply(x, order_N, place_N))


class _Reorder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order_N: Tensor, place_N: Tensor) -> Tensor:
        ctx.save_for_backward(place_N)
        return x.index_select(0, order_N)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (place_N,) = ctx.saved_tensors
        return gradients[0].index_select(0, place_N), None, None


def _everywhere(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    y = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return y.transpose(1, 2)


def _equal_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Let the last Q of P + Q positions attend to all before them."""
    if has_flash(q):
        return _flash(q, k, v, None, None, causal=True)
    queries, keys = q.shape[1], k.shape[1]
    # Not `causal_lower_right`: its class cannot be made under a dispatch mode, such as PyTorch's counter of operations.
    sees_QS = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=sees_QS).transpose(1, 2)


def _unequal(
    q_MHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, queries: Lengths, keys: Lengths, *, causal: bool = False
) -> Tensor:
    if has_flash(q_MHK):
        return _flash(q_MHK, k_NHK, v_NHK, queries, keys, causal=causal)
    return _padded(q_MHK, k_NHK, v_NHK, queries, keys, causal=causal)


def has_flash(q: Tensor) -> bool:
    """Return whether flash attention takes queries like these. (The meta device has the shapes of an accelerator.)"""
    if q.device.type not in ("cuda", "meta") or q.dtype not in (torch.bfloat16, torch.float16):
        return False
    width = q.shape[-1]
    return width % 8 == 0 and width <= 256 and (q.device.type == "meta" or _new_enough(q.device.index))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _new_enough(device_index: int) -> bool:
    return torch.cuda.get_device_capability(device_index)[0] >= 8


def _flash(q: Tensor, k: Tensor, v: Tensor, queries: Lengths | None, keys: Lengths | None, *, causal: bool) -> Tensor:
    """Call the kernel, whose causal mask is aligned to the lower right. Lengths are None for (B, S, H, K)."""
    most = (
        (q.shape[1], k.shape[1]) if queries is None or keys is None else (max(queries.longest, 1), max(keys.longest, 1))
    )
    starts = (None if lengths is None else lengths.offsets_R for lengths in (queries, keys))
    # Without dropout and without a mask for debugging.
    found = torch.ops.aten._flash_attention_forward(q, k, v, *starts, *most, 0.0, causal, False)
    return cast(Tensor, found[0])


def _padded(
    q_MHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, queries: Lengths, keys: Lengths, *, causal: bool = False
) -> Tensor:
    """Compute the same with padded rows and a mask, on devices and in precisions without the kernel."""
    q, q_place = _pad(q_MHK, queries)
    (k, _), (v, _) = _pad(k_NHK, keys), _pad(v_NHK, keys)
    length_B, own_B = (part.offsets_R.long().diff() for part in (keys, queries))
    key_S = torch.arange(k.shape[2], device=q.device)
    sees = key_S < length_B[:, None, None]
    if causal:
        query_Q = torch.arange(q.shape[2], device=q.device)
        last_BQ = query_Q + (length_B - own_B)[:, None]
        sees = sees & (key_S <= last_BQ[..., None])
    y_BHQK = functional.scaled_dot_product_attention(q, k, v, attn_mask=sees[:, None])
    return y_BHQK.transpose(1, 2).flatten(0, 1).index_select(0, q_place)


def _pad(x_NHK: Tensor, lengths: Lengths) -> tuple[Tensor, Tensor]:
    """Return rows (B, H, S, K), and the place of each token in (B * S)."""
    rows, longest = len(lengths.offsets_R) - 1, max(lengths.longest, 1)
    row_N = row_of(lengths.offsets_R, len(x_NHK))
    place_N = row_N * longest + torch.arange(len(x_NHK), device=x_NHK.device) - lengths.offsets_R.long()[row_N]
    padded = x_NHK.new_zeros(rows * longest, *x_NHK.shape[1:]).index_copy(0, place_N, x_NHK)
    return padded.view(rows, longest, *x_NHK.shape[1:]).transpose(1, 2), place_N
