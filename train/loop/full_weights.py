"""The weights of a checkpoint of full fine-tuning, put back into the model that is trained."""

from pathlib import Path

import torch
from torch import nn
from transformers import VideoLlavaForConditionalGeneration

from data.errors import UserError


def restore_weights(model: nn.Module, checkpoint: str | Path) -> None:
    """Copy every weight of a checkpoint into `model`.

    transformers saves a Video-LLaVA under the names of older versions, and its Trainer looks for them under today's: it
    finds none, only warns, and would train on from the base. Loaded as float32, which holds what was saved exactly.
    """
    saved = VideoLlavaForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32, trust_remote_code=False
    ).state_dict()
    places = model.state_dict()
    if different := sorted(saved.keys() ^ places.keys()):
        raise UserError(f"{checkpoint} is of another model: {len(different)} weights, such as {different[0]}")
    with torch.no_grad():
        for name, place in places.items():
            place.copy_(saved[name])
