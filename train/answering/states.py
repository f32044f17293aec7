"""Keys and values while answers are decoded: of a prefix once, and of each answer's own tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

BLOCK = 32  # tokens by which the room for own tokens grows: longer than most answers to questions about clips


@dataclass(frozen=True)
class Prefix:
    """A beginning that answers share: all its ids (P,), and for each layer keys and values (H_kv, p, D) of its last p
    tokens, those behind another beginning, `before`; of all without one."""

    ids: np.ndarray
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    before: "Prefix | None" = None

    @property
    def length(self) -> int:
        return len(self.ids)

    @property
    def parts(self) -> list["Prefix"]:
        """The beginnings that it is made of, the first one first, without those of no tokens."""
        earlier = self.before.parts if self.before else []
        return [*earlier, self] if self.layers else earlier


class OwnStates:
    """Keys and values of N answers' own tokens, for each layer (N, C, H_kv, D); zero where there is no token yet.

    C grows by blocks, so that a step copies nothing but the new tokens.
    """

    def __init__(self) -> None:
        self.num_answers, self.capacity = 0, 0
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def make_room(self, num_answers: int, length: int) -> None:
        """Have at least `num_answers` answers of at least `length` tokens fit; takes effect layer by layer."""
        self.num_answers = num_answers
        if length > self.capacity:
            self.capacity = -(-length // BLOCK) * BLOCK

    def keep(self, answers: Sequence[int], length: int) -> None:
        """Keep these answers alone, in this order; none has more than `length` tokens."""
        self.num_answers, self.capacity = len(answers), min(self.capacity, -(-length // BLOCK) * BLOCK)
        if not answers:
            self.layers = []
        for number, states in enumerate(self.layers):
            chosen = torch.tensor(answers, device=states[0].device)
            key, value = (each[:, : self.capacity].index_select(0, chosen) for each in states)
            self.layers[number] = key, value

    def put(
        self, layer: int, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put keys and values (T, H_kv, D) into slots (T,), answer * capacity + token; return the whole layer's."""
        if layer == len(self.layers):
            self.layers.append((key.new_zeros(0, 0, *key.shape[1:]), value.new_zeros(0, 0, *value.shape[1:])))
        keys, values = map(self._grown, self.layers[layer])
        keys.flatten(0, 1).index_copy_(0, slots, key)
        values.flatten(0, 1).index_copy_(0, slots, value)
        self.layers[layer] = keys, values
        return keys, values

    def _grown(self, states: torch.Tensor) -> torch.Tensor:
        number, capacity = states.shape[:2]
        if (number, capacity) == (self.num_answers, self.capacity):
            return states
        grown = states.new_zeros(self.num_answers, self.capacity, *states.shape[2:])
        grown[:number, :capacity] = states
        return grown
