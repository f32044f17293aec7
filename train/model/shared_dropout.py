"""LoRA's dropout drawn once for layers that read the same states: queries, keys and values; gate and up.

PEFT draws a mask for each adapted layer. On a 7B model that is five copies of a layer's input, with five masks, kept
for the backward pass, where two do: on a GPU 3 % of a step's time and 5 GB of a row of two clips. Each adapter sees
dropout of the same rate as before.
"""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from train.model.initialisation import ADAPTER
from train.model.last_layer import LastLayer

SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # names within one module, of LLaMA's build
SAME_INPUT_OF_LAST = (("k_proj", "v_proj"),)


class SharedDropout(nn.Dropout):
    """Dropout whose output serves `num_readers` calls in a row that give it the very same tensor."""

    def __init__(self, p: float, num_readers: int):
        super().__init__(p)
        self.num_readers = num_readers
        self._forget()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return input
        if input is not self._input:
            self._input, self._output, self._num_left = input, super().forward(input), self.num_readers
        output, self._num_left = self._output, self._num_left - 1
        if self._num_left == 0:
            self._forget()  # or the states of a layer would stay in memory
        assert output is not None
        return output

    def _forget(self) -> None:
        self._input: torch.Tensor | None = None
        self._output: torch.Tensor | None = None
        self._num_left = 0


def share_dropout(model: nn.Module, adapter: str = ADAPTER) -> None:
    """Put one dropout in the place of those of adapted layers that read the same states."""
    modules = list(model.modules())
    of_last = [layer.self_attn for layer in modules if isinstance(layer, LastLayer)]  # asks for suffixes alone
    for module in modules:
        for names in SAME_INPUT_OF_LAST if any(module is each for each in of_last) else SAME_INPUT:
            layers = [layer for name in names if isinstance(layer := getattr(module, name, None), LoraLayer)]
            dropouts: list[Any] = [layer.lora_dropout[adapter] for layer in layers if adapter in layer.lora_dropout]
            if len(dropouts) > 1 and all(isinstance(each, nn.Dropout) for each in dropouts):
                shared = SharedDropout(dropouts[0].p, len(dropouts))
                for layer in layers:
                    layer.lora_dropout[adapter] = shared
