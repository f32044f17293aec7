"""The layout of a packed row: which token sees which, and at which position each token stands.

A row is a sequence of groups, each laid out as [prefix | suffix 1 | ... | suffix k]. A token of the prefix
sees the prefix up to itself. A token of a suffix sees the whole prefix and its own suffix up to itself.
Nothing is seen across groups, or from suffix to suffix. A group without suffixes is an ordinary causal
sequence, and so is one with a single suffix. What is trained stands in suffixes, where there are any.
"""

from dataclasses import dataclass, field

import torch

END = -1
LENGTHS_MULTIPLE = 64  # most rows have fewer lengths: their tensors are of one size, for which one graph is compiled


@dataclass(unsafe_hash=True)
class RowLayout:
    """(prefix_length, suffix_lengths) in tokens of each group of the row, in the order of the tokens; never changed.

    Plain integers on purpose: it pickles small, moves to no device, and passes unchanged through the data
    loader, DDP, FSDP and gradient checkpointing on its way to the attention. Not frozen, or torch 2.11 would guard
    each of them where a graph breaks, and compile anew for every number of groups and suffixes.
    """

    groups: tuple[tuple[int, tuple[int, ...]], ...]

    lengths: torch.Tensor = field(init=False, repr=False, compare=False)
    """(N,) long on the CPU: of each group the prefix, the number of suffixes, and each of them, then ENDs. A graph of
    torch.compile takes it as any tensor, where it would guard each of the integers and be of use to this row alone."""

    def __post_init__(self) -> None:
        flat = [number for prefix, suffixes in self.groups for number in (prefix, len(suffixes), *suffixes)]
        flat += [END] * (-len(flat) % LENGTHS_MULTIPLE)
        with torch.inference_mode(False):  # a layout made in evaluation may be trained on
            self.lengths = torch.tensor(flat, dtype=torch.long)

    def __reduce__(self) -> tuple[type, tuple]:
        return RowLayout, (self.groups,)

    @staticmethod
    def from_lengths(lengths: torch.Tensor) -> "RowLayout":
        numbers = iter(lengths.tolist())
        groups = []
        for prefix in iter(lambda: next(numbers, END), END):
            groups.append((prefix, tuple(next(numbers) for _ in range(next(numbers)))))
        return RowLayout(tuple(groups))

    @property
    def group_lengths(self) -> list[int]:
        return [prefix_length + sum(suffix_lengths) for prefix_length, suffix_lengths in self.groups]


def packed_inputs(layout: RowLayout) -> dict:
    """Return the keyword arguments that, next to `input_ids` (1, L) and pixels, make `model.forward` a packed pass.

    row_layout: reaches the attention of every decoder layer through forward's `**kwargs`.
    suffix_positions: (S,) long, for the last layer in the same way, see `train.model.last_layer`.
    position_ids: (1, L) long.
    attention_mask: (1, 1, 0, 0) bool. Without one, transformers would take the restarting positions for
        packed sequences and build a dense L x L mask; a 4-D mask it hands on as it is. An empty one costs
        nothing, and every other attention refuses its size instead of quietly looking across questions.
    use_cache: False, nothing is decoded.
    """
    return {
        "row_layout": layout,
        "suffix_positions": suffix_positions(layout),
        "position_ids": position_ids(layout),
        "attention_mask": torch.empty(1, 1, 0, 0, dtype=torch.bool),
        "use_cache": False,
    }


def position_ids(layout: RowLayout) -> torch.Tensor:
    """Return (1, L) long: from 0 in each prefix; each suffix goes on behind its prefix, as if it were alone."""
    spans = []
    for prefix_length, suffix_lengths in layout.groups:
        spans.append(torch.arange(prefix_length))
        spans.extend(torch.arange(prefix_length, prefix_length + length) for length in suffix_lengths)
    return torch.cat(spans).unsqueeze(0)


def suffix_positions(layout: RowLayout) -> torch.Tensor:
    """Return (S,) long: where the suffixes stand in the row, and the groups that have none."""
    spans, start = [], 0
    for (prefix_length, suffix_lengths), length in zip(layout.groups, layout.group_lengths, strict=True):
        spans.append(torch.arange(start + (prefix_length if suffix_lengths else 0), start + length))
        start += length
    return torch.cat(spans)


def suffix_mask(
    prefix_length: int,
    suffix_lengths: tuple[int, ...],
    device: torch.device | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Return (S, P + S) bool: the keys of a group, prefix first, that each of its S suffix tokens sees.

    window: how many positions back a token sees, its own included; None: all of them.
    """
    lengths = torch.tensor(suffix_lengths, dtype=torch.long, device=device)
    suffix = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)  # (S,)
    own = (suffix[:, None] == suffix).tril()
    seen = torch.nn.functional.pad(own, (prefix_length, 0), value=True)
    if window is None:
        return seen
    prefix = torch.arange(prefix_length, device=device)
    places = torch.cat([prefix, *(torch.arange(length, device=device) + prefix_length for length in suffix_lengths)])
    return seen & (places[prefix_length:, None] - places < window)


def causal_mask(length: int, device: torch.device | None = None, window: int | None = None) -> torch.Tensor:
    """Return (L, L) bool: the keys of a causal sequence that each of its tokens sees, at most `window` of them."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return seen if window is None else seen.triu(1 - window)


def dense_mask(layout: RowLayout) -> torch.Tensor:
    """Return (L, L) bool: True where the query (first index) sees the key; training never makes it."""
    blocks = []
    for prefix_length, suffix_lengths in layout.groups:
        prefix = torch.nn.functional.pad(causal_mask(prefix_length), (0, sum(suffix_lengths)))
        blocks.append(torch.cat([prefix, suffix_mask(prefix_length, suffix_lengths)]))
    return torch.block_diag(*blocks)
