# ruff: noqa: N815  (fields carry shape suffixes in capitals)
"""Layout of a batch: which tokens are computed, and where they are. Computed on the CPU, by the loader.

Lengths, positions and indices follow from the ids alone. If the model found them on a GPU, each would make the host wait for the
device. A layout therefore travels with its batch: all its indices in one tensor, and its sizes as numbers of the host.

Shapes: B batch, L text context, S computed columns of a text row, T target length, Q computed queries, N tokens, M queries, C
chosen queries.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from clips_pipeline.models.rows.packing import Lengths, Packing
from clips_pipeline.models.sizes import ClipsConfig, TextConfig


class TextRows(NamedTuple):
    """Rows of texts without PAD: the packing in (B, S), and the flat indices (N,) of the tokens in the ids (B, L)."""

    packing: Packing
    source_N: Tensor


class CaptionRows(NamedTuple):
    """Queries of a batch: up to each row's last target, those that predict a target, and the ids to predict.

    Both packings are in (B, Q).
    """

    packing: Packing
    chosen: Packing
    targets_C: Tensor

    @classmethod
    def all(cls, rows: int, queries: int, device: torch.device) -> "CaptionRows":
        """Return the rows in which every query is computed, without targets."""
        full = Packing.full(rows, queries, device)
        return cls(full, full, torch.empty(0, dtype=torch.long, device=device))


class ChunkLayout(NamedTuple):
    """Layout of the rows that are computed at once: of each set of texts (none if PAD is computed), and of the captions."""

    texts: tuple[TextRows, ...]
    captions: CaptionRows | None


class _TextSizes(NamedTuple):
    body: int
    tokens: int
    longest: int


class _CaptionSizes(NamedTuple):
    used: int
    queries: int
    longest: int
    chosen: int
    longest_chosen: int


class _Sizes(NamedTuple):
    rows: int
    texts: tuple[_TextSizes, ...]
    captions: _CaptionSizes | None


@dataclass(frozen=True)
class StepLayout:
    """Layout of one step.

    Attributes:
        numbers: int64, all indices one after the other.
        sizes: their sizes, chunk by chunk.
        in_chunks: whether `numbers` begins with the order of the rows, by target length, and its inverse.
        context_length: L.
        fragments: rows of fragments of a sample.
    """

    numbers: Tensor
    sizes: tuple[_Sizes, ...]
    in_chunks: bool
    context_length: int
    fragments: int

    @property
    def rows(self) -> int:
        """Number of samples, B."""
        return sum(chunk.rows for chunk in self.sizes)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "StepLayout":
        """Return the layout with its indices on `device`."""
        return replace(self, numbers=self.numbers.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "StepLayout":
        """Return the layout with its indices in page-locked memory."""
        return replace(self, numbers=self.numbers.pin_memory())

    def order(self) -> tuple[list[Tensor], Tensor]:
        """Return the rows of each chunk, and the inverse order (B,)."""
        order_B, inverse_B = self.numbers[: self.rows], self.numbers[self.rows : 2 * self.rows]
        return list(torch.split(order_B, [chunk.rows for chunk in self.sizes])), inverse_B

    def chunks(self) -> Iterator[ChunkLayout]:
        """Yield the layout of each chunk."""
        begin = 2 * self.rows if self.in_chunks else 0

        def take(count: int) -> Tensor:
            nonlocal begin
            begin += count
            return self.numbers[begin - count : begin]

        for rows, text_sizes, caption_sizes in self.sizes:
            texts = []
            for number, (body, tokens, longest) in enumerate(text_sizes):
                of_set = rows * (self.fragments if number else 1)
                offsets_R, source_N = take(of_set + 1).int(), take(tokens)
                texts.append(_text_rows(offsets_R, source_N, of_set, body, longest, self.context_length))
            captions = None
            if caption_sizes is not None:
                used, queries, longest, chosen, longest_chosen = caption_sizes
                packing = _packing(take(rows + 1), take(queries), (rows, used), longest)
                picked = _packing(take(rows + 1), take(chosen), (rows, used), longest_chosen)
                captions = CaptionRows(packing, picked, take(chosen))
            yield ChunkLayout(tuple(texts), captions)


def step_layout(
    config: ClipsConfig,
    web_ids_BL: Tensor,
    fragment_ids_BL: Tensor,
    target_ids_BT: Tensor,
    *,
    chunk: int | None = None,
    multiple: int = 1,
) -> StepLayout:
    """Compute the layout of one batch.

    Args:
        config: the model.
        web_ids_BL: as in `ClipsModel.forward`; on a device, they are copied to the host.
        fragment_ids_BL: as in `ClipsModel.forward`.
        target_ids_BT: as in `ClipsModel.forward`.
        chunk: samples that are computed at once; None is the whole batch, in its order. Chunks have rows of similar target length,
            since the attention of a chunk is as long as its longest row.
        multiple: computed columns and queries are rounded up to multiples of this, so that fewer different shapes occur.

    Raises:
        ValueError: `chunk` is below 1, or there are more target positions than queries.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; use 1 or more")
    web, fragment, target = (ids.cpu() for ids in (web_ids_BL, fragment_ids_BL, target_ids_BT))
    pad, length = config.text.pad_id, config.text.context_length
    rows, fragments = len(web), 0 if fragment.shape[1] == 0 else fragment[0].numel() // fragment.shape[-1]
    numbers: list[Tensor] = []
    if chunk is None:
        groups: list[Tensor] = [torch.arange(rows)]
    else:
        order_B = (target != pad).sum(dim=1).argsort(stable=True)
        numbers += [order_B, order_B.argsort()]
        groups = list(torch.split(order_B, chunk))
    hidden = config.text_tower and config.text.padding == "mask"
    sizes = []
    for rows_R in groups:
        texts = []
        if hidden:
            fragment_rows = [fragment[rows_R].reshape(-1, fragment.shape[-1])] if fragments else []
            for ids in (web[rows_R], *fragment_rows):
                found, text = _text_numbers(config.text, ids, multiple)
                numbers += found
                texts.append(text)
        captions = None
        if config.captioner is not None:
            found, captions = _caption_numbers(target[rows_R], pad, config.captioner.queries, multiple)
            numbers += found
        sizes.append(_Sizes(len(rows_R), tuple(texts), captions))
    whole = torch.cat(numbers) if numbers else torch.empty(0, dtype=torch.long)
    return StepLayout(whole, tuple(sizes), chunk is not None, length, fragments)


def text_rows(config: TextConfig, ids_BL: Tensor, multiple: int = 1) -> TextRows | None:
    """Return the layout of one set of texts, which synchronizes with the device; None if PAD is computed.

    Raises:
        ValueError: the rows do not have `context_length` ids.
    """
    check_length(config, ids_BL)
    if config.padding == "attend":
        return None
    (offsets_R, source_N), sizes = _text_numbers(config, ids_BL.cpu(), multiple)
    device = ids_BL.device
    return _text_rows(
        offsets_R.int().to(device), source_N.to(device), len(ids_BL), sizes.body, sizes.longest, config.context_length
    )


def check_length(config: TextConfig, ids_BL: Tensor) -> None:
    """Refuse rows of another length.

    Raises:
        ValueError: the rows do not have `context_length` ids.
    """
    if ids_BL.shape[1] != config.context_length:
        raise ValueError(
            f"text rows have {ids_BL.shape[1]} ids, the model reads {config.context_length}: tokenize to text.context_length"
        )


def _text_numbers(config: TextConfig, ids_BL: Tensor, multiple: int) -> tuple[list[Tensor], _TextSizes]:
    """Return offsets and flat indices of the tokens, and the leading columns up to the last token before [CLS]."""
    check_length(config, ids_BL)
    keep_BL = ids_BL != config.pad_id
    count_B = keep_BL.sum(dim=1)
    body = _rounded(_last_true(keep_BL[:, :-1]), multiple, config.context_length - 1)
    source_N = keep_BL.flatten().nonzero().squeeze(1)
    return [_offsets(count_B), source_N], _TextSizes(body, len(source_N), int(count_B.amax()))


def _caption_numbers(ids_RT: Tensor, pad_id: int, queries: int, multiple: int) -> tuple[list[Tensor], _CaptionSizes]:
    """Return offsets and indices of the queries up to each row's last target, the same of the chosen ones, and the targets."""
    next_ids_RQ = ids_RT[:, 1:]
    valid_RQ = next_ids_RQ != pad_id
    last = _last_true(valid_RQ)
    if last > queries:
        raise ValueError(f"{last} target positions for {queries} queries: shorten targets or raise captioner.queries")
    # At least one query, so that a batch without any target has a (zero) gradient for every parameter.
    used = _rounded(max(last, 1), multiple, min(queries, valid_RQ.shape[1]))
    valid_RQ = valid_RQ[:, :used]
    computed_RQ = valid_RQ.flip(1).cumsum(dim=1).flip(1) > 0
    if not last:
        computed_RQ[:1, :1] = True
    counts = [computed_RQ.sum(dim=1), valid_RQ.sum(dim=1)]
    index_M, index_C = (flags.flatten().nonzero().squeeze(1) for flags in (computed_RQ, valid_RQ))
    numbers = [_offsets(counts[0]), index_M, _offsets(counts[1]), index_C, next_ids_RQ[:, :used][valid_RQ]]
    longest = [int(count.amax()) for count in counts]
    return numbers, _CaptionSizes(used, len(index_M), longest[0], len(index_C), longest[1])


def _text_rows(
    offsets_R: Tensor, source_N: Tensor, rows: int, body: int, longest: int, context_length: int
) -> TextRows:
    # [CLS] follows the body; without trimming it is where it was.
    computed = body + 1
    column_N = (source_N % context_length).clamp_max(body)
    index_N = source_N // context_length * computed + column_N
    return TextRows(Packing.at(index_N, (rows, computed), Lengths(offsets_R, longest)), source_N)


def _packing(offsets_R: Tensor, index_N: Tensor, shape: tuple[int, int], longest: int) -> Packing:
    return Packing.at(index_N, shape, Lengths(offsets_R.int(), longest))


def _offsets(count_B: Tensor) -> Tensor:
    return torch.nn.functional.pad(count_B.cumsum(dim=0), (1, 0))


def _last_true(flags_BS: Tensor) -> int:
    """Return one more than the last column that is True in any row; 0 if there is none."""
    columns = flags_BS.any(dim=0).nonzero()
    return int(columns[-1]) + 1 if len(columns) else 0


def _rounded(count: int, multiple: int, most: int) -> int:
    return max(count, min(-(-count // multiple) * multiple, most))
