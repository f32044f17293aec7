"""A model of which an adapter, or a part of its own, is trained."""

from typing import Any

from accelerate.utils import set_seed
from torch import nn

from train.model.adapters import add_adapter, unfreeze
from train.model.load import load_model
from train.ranks.processes import device_of_weights


def load_trainable(
    settings: dict[str, Any], lora: dict[str, Any] | None, trainable: str | None, seed: int
) -> nn.Module:
    """Load a model and add an adapter, or without `lora` train the parts that `trainable` names.

    settings and lora: the arguments of `load_model` and `add_adapter`. seed: for the adapter's matrices, which are the
    same however the weights were loaded and spread.
    """
    model = load_model(**settings, device_map=device_of_weights())
    set_seed(seed)
    if lora is not None:
        return add_adapter(model, revision=settings["revision"], **lora)
    assert trainable is not None
    return unfreeze(model, trainable)
