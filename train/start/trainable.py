"""A model of which an adapter, or a part of its own, is trained."""

from collections.abc import Sequence
from typing import Any

from accelerate.utils import set_seed
from torch import nn

from data.video_llava import is_used
from train.model.adapters import add_adapter, cast_outside_autocast, unfreeze
from train.model.load import load_model
from train.model.token_rows import give_rows
from train.ranks.processes import device_of_weights
from train.results.artifact import Artifact
from train.results.loading import add_saved_adapter


def load_trainable(
    settings: dict[str, Any],
    lora: dict[str, Any] | None,
    trainable: str | None,
    seed: int,
    begins_with: Artifact | None = None,
    token_ids: Sequence[int] = (),
) -> nn.Module:
    """Load a model and add an adapter, or without `lora` train the parts that `trainable` names.

    settings and lora: the arguments of `load_model` and `add_adapter`. seed: for the adapter's matrices, which are the
    same however the weights were loaded and spread. begins_with: the adapter to go on with, instead of a new one.
    token_ids: of new tokens, which get rows of their own.
    """
    model = load_model(**settings, device_map=device_of_weights())
    set_seed(seed)
    if lora is not None and begins_with is not None:
        adapted = add_saved_adapter(model, begins_with, dropout=lora["dropout"])
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad and not is_used(name, model.config):
                parameter.requires_grad_(False)  # a stranger's, in a tower: DDP waits for ever for its gradient
        if not lora["use_dora"]:
            cast_outside_autocast(adapted)
        return adapted
    if lora is not None:
        give_rows(model, token_ids)
        return add_adapter(model, revision=settings["revision"], token_ids=token_ids, **lora)
    assert trainable is not None
    give_rows(model, token_ids)
    return unfreeze(model, trainable)
