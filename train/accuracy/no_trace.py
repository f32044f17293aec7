"""A model in the middle of its training, lent to those who ask it questions, and given back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from train.answering.decoding import AnyModel
from train.results.loading import greedy

OF_ADAPTERS = ("lora_", "token_adapter")  # parts of names of parameters that PEFT's layers bring to the type they need


@contextmanager
def lent(model: AnyModel, tokenizer: PreTrainedTokenizerBase, is_spread: bool) -> Iterator[AnyModel]:
    """Yield the model as `train.results.loading.load` would give it: without dropout, greedy, its layers not compiled.

    Its numbers are those of a model that was loaded, too: it is run without Trainer's autocast, unless a part of it is
    trained in float32 among halves. is_spread: over the ranks, so that every pass must go through the whole of it.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    modes = {module: module.training for module in model.modules()}
    settings = base.generation_config
    try:
        model.eval()
        base.generation_config = greedy(tokenizer)
        # Compiled code has guards: what is compiled for answers could push out what is compiled for training.
        with torch.compiler.set_stance("force_eager"):
            yield model if is_spread or not has_one_type(base) else base  # pyrefly: ignore[invalid-yield]
    finally:
        base.generation_config = settings
        for module, mode in modes.items():
            module.training = mode


def has_one_type(base: nn.Module) -> bool:
    """Tell whether all weights are of one number type, beside those of adapters."""
    types = {
        parameter.dtype
        for name, parameter in base.named_parameters()
        if parameter.is_floating_point() and not any(part in name for part in OF_ADAPTERS)
    }
    return len(types) == 1
