"""One pass over the tokens that a decoding batch has not seen, and how its layers attend."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from train.answering.attention import attend_own, attend_prefix, attend_sequences
from train.answering.states import OwnStates, Prefix
from train.model.flash_kernels import Problem, lse_dtype
from train.model.flash_rows import merge


@dataclass(frozen=True)
class Span:
    """Tokens of a pass that look at one prefix, or at one part of theirs."""

    prefix: Prefix
    start: int
    stop: int


class StepPlan:
    """The L tokens of a pass and what they see: first sequences that begin, each causal over itself, then one token of
    each answer that goes on.

    ids, positions: (L,) long, `positions` in the answer as if it were alone. last: (N,) long, the token whose logits
    each answer needs. sources, slots: token `sources[i]` goes into the own states' slot `slots[i]`. seen: (num_old,)
    tokens that each old answer has.
    """

    def __init__(self, capacity: int, num_old: int):
        self.capacity, self.num_old = capacity, num_old
        self.sequences: list[int] = []  # lengths of those that begin
        self.spans: list[Span] = []
        self.num_tokens = 0
        self.seen: list[int] = []
        self._last: dict[int, int] = {}
        self._ids: list[np.ndarray] = []
        self._positions: list[np.ndarray] = []
        self._sources: list[np.ndarray] = []
        self._slots: list[np.ndarray] = []

    def add_new(
        self,
        prefix: Prefix,
        places: Sequence[int],
        sequences: Sequence[np.ndarray],
        ends: Sequence[int],
        owners: Sequence[int],
    ) -> None:
        """Add what the answers at these places of the own states begin with; see `chains` for `ends` and `owners`."""
        start, starts = self.num_tokens, []
        for end in ends:
            length = len(sequences[end])
            starts.append(self.num_tokens)
            self.sequences.append(length)
            self._add(sequences[end], prefix.length + np.arange(length))
        self._add_span(prefix, start)
        for place, ids, owner in zip(places, sequences, owners, strict=True):
            offsets = np.arange(len(ids))
            self._sources.append(starts[owner] + offsets)
            self._slots.append(place * self.capacity + offsets)
            self._last[place] = starts[owner] + len(ids) - 1

    def add_old(self, prefix: Prefix, places: Sequence[int], tokens: Sequence[int], lengths: Sequence[int]) -> None:
        """Add the next token of answers that have `lengths` own tokens."""
        start, offsets = self.num_tokens, np.array(lengths)
        sources = start + np.arange(len(places))
        self._add(np.array(tokens), prefix.length + offsets)
        self._add_span(prefix, start)
        self._sources.append(sources)
        self._slots.append(np.array(places) * self.capacity + offsets)
        self._last.update(zip(places, sources.tolist(), strict=True))
        self.seen += [length + 1 for length in lengths]

    def _add(self, ids: np.ndarray, positions: np.ndarray) -> None:
        self._ids.append(ids)
        self._positions.append(positions)
        self.num_tokens += len(ids)

    def _add_span(self, prefix: Prefix, start: int) -> None:
        self.spans += [Span(part, start, self.num_tokens) for part in prefix.parts]

    @property
    def ids(self) -> np.ndarray:
        return np.concatenate(self._ids).astype(np.int64)

    @property
    def positions(self) -> np.ndarray:
        return np.concatenate(self._positions).astype(np.int64)

    @property
    def last(self) -> np.ndarray:
        return np.array([self._last[place] for place in range(len(self._last))], dtype=np.int64)

    @property
    def sources(self) -> np.ndarray:
        return np.concatenate(self._sources)

    @property
    def slots(self) -> np.ndarray:
        return np.concatenate(self._slots)


class DecodingStep:
    """The attention of all layers in one pass, see `train.answering.attention.Step`."""

    def __init__(self, plan: StepPlan, states: OwnStates, device: torch.device):
        self.plan, self.states = plan, states
        self.num_new = sum(plan.sequences)
        self.sources = torch.from_numpy(plan.sources).to(device)
        self.slots = torch.from_numpy(plan.slots).to(device)
        lengths = [(length, length) for length in plan.sequences]
        self.sequences = Problem.of(lengths, is_causal=True, device=device) if lengths else None
        seen = torch.tensor(plan.seen, dtype=torch.long)
        hidden = torch.arange(plan.capacity) >= seen[:, None]
        self.mask = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)[:, None, None].to(device)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Keep and attend: query (L, H, D), key and value (L, H_kv, D) -> (L, H, D)."""
        own_key, own_value = self.states.put(layer, key[self.sources], value[self.sources], self.slots)
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        lse = torch.empty(query.shape[1], len(query), dtype=lse_dtype(query.dtype), device=query.device)
        new, old = slice(0, self.num_new), slice(self.num_new, None)
        if self.sequences:
            out[new], lse[:, new] = attend_sequences(query[new], key[new], value[new], self.sequences, scale)
        if number := self.plan.num_old:
            self.mask = self.mask.to(query.dtype)
            out[old], lse[:, old] = attend_own(query[old], own_key[:number], own_value[:number], self.mask, scale)
        for span in self.plan.spans:
            at = slice(span.start, span.stop)
            of_prefix = attend_prefix(query[at], *span.prefix.layers[layer], scale)
            out[at], lse[:, at] = merge(out[at], lse[:, at], *of_prefix)
        return out
