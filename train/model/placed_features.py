"""The towers' features in the places of their tokens, without a question to the device whether they fit.

transformers' model compares, for pictures and for clips, the number of placeholders with that of features, and writes
it into a message that nobody sees: the device is waited for twice, and has nothing to do behind that until Python has
launched the next layer. The number follows from the base and its processor, so the first row that has a picture, and
the first that has a clip, go the model's own way; once they were found to fit, a torch hook puts the features in the
places, with the operations of the model, and hands on embeddings in place of tokens and pixels.
"""

from typing import Any

import torch
from torch import nn
from transformers import VideoLlavaModel

# Names of the pixels of a kind between transformers' modules; 5.23 renamed those of pictures.
PICTURES, CLIPS = ("pixel_values", "pixel_values_images"), ("pixel_values_videos",)


def place_features(model: nn.Module) -> None:
    """Let the model put features in their places without waiting, in training."""
    for module in model.modules():
        if isinstance(module, VideoLlavaModel):
            module.register_forward_pre_hook(Placing(), with_kwargs=True)


class Placing:
    """A hook of a model that notes which kinds of media were seen to fit."""

    def __init__(self) -> None:
        self._fit: set[tuple[str, ...]] = set()

    def __call__(self, model: VideoLlavaModel, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
        """Return the arguments of the model's forward pass; None leaves them as they are."""
        given = {names: value for names in (PICTURES, CLIPS) if (value := _of(names, kwargs)) is not None}
        tokens = kwargs.get("input_ids")
        if args or tokens is None or not given or not model.training:
            return None
        if not given.keys() <= self._fit:
            self._fit |= {names for names, pixels in given.items() if len(pixels)}  # else the model raises an error
            return None
        config: Any = model.config
        states = model.get_input_embeddings()(tokens)  # (B, L, D)
        if PICTURES in given:
            features = model.get_image_features(given[PICTURES], return_dict=True)
            states = placed(states, tokens == config.image_token_id, features.pooler_output)
        if CLIPS in given:
            features = model.get_video_features(given[CLIPS], return_dict=True)
            states = placed(states, tokens == config.video_token_id, features.pooler_output)
        rest = {name: value for name, value in kwargs.items() if name not in (*PICTURES, *CLIPS)}
        return args, {**rest, "input_ids": None, "inputs_embeds": states}


def placed(states: torch.Tensor, places: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Put features, as many as there are places (B, L), into states (B, L, D), in their order."""
    return states.masked_scatter(places.unsqueeze(-1), features.to(states.device, states.dtype))


def _of(names: tuple[str, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    return next((value for name in names if (value := kwargs.get(name)) is not None), None)
