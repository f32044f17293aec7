"""The weights of a random model, one at a time: it can be larger than the memory."""

import hashlib

import torch
from torch import nn

from train.model.build import deviation_of

SEED_BYTES = 7  # of a digest: torch takes seeds below 2**63


class RandomWeights:
    """Draws a bare model's tensor when it is asked for: from the seed and its name alone, in whatever order.

    Matrices as in `train.model.build.build_model`; norms begin as ones, biases as zeros, other vectors from N(0, 1).
    """

    def __init__(self, model: nn.Module, seed: int):
        self.model, self.seed = model, seed

    def __call__(self, name: str) -> torch.Tensor:
        """Return the tensor of this name, float32."""
        place, _, leaf = name.rpartition(".")
        module = self.model.get_submodule(place)
        shape = getattr(module, leaf).shape
        deviation = deviation_of(module) if leaf == "weight" else None
        if leaf == "bias":
            return torch.zeros(shape)
        if leaf == "weight" and deviation is None:
            return torch.ones(shape)
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:SEED_BYTES], "big"))
        return torch.empty(shape).normal_(std=deviation or 1.0, generator=generator)
