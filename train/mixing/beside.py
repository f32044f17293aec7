"""Several adapters beside their base at once, each scaled by its weight: PEFT's own way to run a sum of them."""

from collections.abc import Sequence
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import nn

from train.merging.adapted import add_adapter, init_of, settings_of
from train.results.artifact import Artifact

# What PEFT can have of one adapter at a time, or what does not add up in outputs as it does in weights.
ALONE = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters")


def can_stand_beside(artifact: Artifact) -> bool:
    """Tell whether an adapter consists of matrices alone, so that the outputs of several add up."""
    settings = settings_of(artifact)
    has_bias = settings.get("bias", "none") != "none"
    return not has_bias and not any(settings.get(name) for name in ALONE) and init_of(artifact) is None


def put_beside(model: nn.Module, adapters: Sequence[tuple[Artifact, float]]) -> None:
    """Put adapters on a bare model, in place, all of them active. Raises UserError where one does not fit."""
    adapted: Any = None
    names: list[str] = []
    for number, (artifact, weight) in enumerate(adapters):
        names.append(f"given{number}")
        adapted = add_adapter(artifact, model, names[-1], adapted)
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                layer.set_scale(names[-1], weight)
    tuner: Any = adapted.base_model
    tuner.set_adapter(names)
    model.requires_grad_(False).eval()
