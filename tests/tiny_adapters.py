"""Adapters with random weights on the tiny model, saved as training saves them."""

from pathlib import Path

import torch

from train.model.adapters import add_adapter
from train.model.load import load_model


def save_adapter(base: Path, folder: Path, quantization: str | None = None, **settings) -> Path:
    """`settings` are those of `add_adapter`. No matrix is zero, so that the adapter changes every answer."""
    torch.manual_seed(1)
    model = add_adapter(load_model(str(base), quantization=quantization), r=4, alpha=8, dropout=0.1, **settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_A" not in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder
