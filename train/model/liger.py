"""Liger's Triton kernels in the decoder, from an extra package: norms, SwiGLU and the rotary embedding.

Its fused cross-entropy is left out: logits are those of labelled positions alone, of which there are few.
"""

import importlib
import logging
from typing import Any, cast

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.utils import is_liger_kernel_available

from data.errors import UserError
from train.model.last_layer import HasDecoder

logger = logging.getLogger(__name__)

KERNELS = ("rms_norm", "swiglu", "rope")
LOSSES = ("cross_entropy", "fused_linear_cross_entropy")
NEEDS_GPU = "training.use_liger_kernel: Liger's kernels need a GPU; transformers' own operations run here"


def take_over_liger(args: TrainingArguments) -> dict[str, bool] | None:
    """Return which kernels a recipe asks for, and keep Trainer from replacing the loss. Raises UserError."""
    if not args.use_liger_kernel:
        return None
    given: Any = args.liger_kernel_config or {}
    if others := sorted(set(given) - set(KERNELS)):
        raise UserError(
            f"training.liger_kernel_config: {others[0]} is none of {', '.join(KERNELS)}; remove it (the loss needs "
            "logits of labelled positions alone)"
        )
    if not is_liger_kernel_available():
        raise UserError("training.use_liger_kernel: needs liger-kernel: pip install -e '.[liger]', or remove it")
    args.use_liger_kernel, args.liger_kernel_config = False, None
    return dict.fromkeys(KERNELS, True) | given


def run_on_liger(model: nn.Module, kernels: dict[str, bool] | None, device: torch.device) -> None:
    """Have the decoder of a model that will be on this device run on Liger's kernels; names of weights stay."""
    if kernels is None:
        return
    if device.type != "cuda":
        logger.info(NEEDS_GPU)
        return
    decoder: Any = cast(HasDecoder, model).get_decoder()
    liger = importlib.import_module("liger_kernel.transformers")
    apply = getattr(liger, f"apply_liger_kernel_to_{decoder.config.model_type}")
    apply(**kernels, **dict.fromkeys(LOSSES, False), model=decoder)
