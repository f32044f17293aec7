"""LoRA on the decoder, or named parts of the model that are trained themselves; and a report of both."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from data.errors import UserError, first_line
from data.video_llava import DECODER, PROJECTOR, TOWERS, is_used
from train.model.initialisation import begin_at_weights, begin_orthogonal, begins_at_weights
from train.model.token_rows import indices_for_peft

OF_PEFT = "modules_to_save|token_adapter|default|base_layer"  # what PEFT puts into the names of parameters
PARTS = {"all": "", "decoder": rf"\b{DECODER}\b|\blm_head\b", "projector": rf"\b{PROJECTOR}\b"}


def add_adapter(
    model: nn.Module,
    *,
    r: int,
    alpha: int,
    dropout: float,
    target: str = "decoder",
    modules_to_save: list[str] | None = None,
    use_dora: bool = False,
    use_rslora: bool = False,
    init_lora_weights: Any = True,  # bool or one of PEFT's names
    bias: Literal["none", "lora_only"] = "none",
    revision: str | None = None,
    token_ids: Sequence[int] = (),
) -> PeftModel:
    """Wrap `model` with LoRA adapters, in float32 whatever the base is; the rows of `token_ids` are trained with them.

    Raises UserError when one would land outside `target`, or nowhere.
    """
    pattern = target_pattern(model, target)
    halves = 2 if begins_at_weights(init_lora_weights) else 1
    config = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=pattern,
        r=r * halves,
        lora_alpha=alpha * (halves**0.5 if use_rslora else halves),  # pyrefly: ignore[bad-argument-type]: may be a float
        lora_dropout=dropout,
        modules_to_save=modules_to_save or None,
        use_dora=use_dora,
        use_rslora=use_rslora,
        init_lora_weights="gaussian" if init_lora_weights == "gaussian" else init_lora_weights is not False,
        bias=bias,
        trainable_token_indices=indices_for_peft(model, token_ids),
        revision=revision,  # of the base: the adapter finds the same weights again
    )
    for name in modules_to_save or []:
        if not any(module.split(".")[-1] == name for module, _ in model.named_modules()):
            raise UserError(f"lora.modules_to_save: the model has no module {name!r}; the projector is {PROJECTOR!r}")
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as problem:
        raise UserError(f"lora: PEFT refuses these settings: {first_line(problem)}") from problem
    check_adapters(wrapped, pattern, allow_towers=target not in ("decoder", "decoder+projector"))
    if begins_at_weights(init_lora_weights):
        begin_at_weights(wrapped, init_lora_weights, r)
    elif init_lora_weights == "orthogonal":
        begin_orthogonal(wrapped, r)
    if not use_dora:
        cast_outside_autocast(wrapped)
    return wrapped


def cast_outside_autocast(model: PeftModel) -> None:
    """Keep the adapters' inputs in half precision where autocast computes with them anyway.

    PEFT widens them to the adapter's float32, drops out there and leaves it to autocast to narrow the result again: in
    the step of a 7B model that was a fifth of the GPU's time. Its 4-bit layers do as this hook does.
    """

    def choose(layer: LoraLayer, args: tuple[torch.Tensor, ...]) -> None:
        layer.cast_input_dtype_enabled = not torch.is_autocast_enabled(args[0].device.type)

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.register_forward_pre_hook(choose)


def target_pattern(model: nn.Module, target: str) -> str:
    """Return the regular expression over full module names that PEFT's `target_modules` takes.

    By suffix alone (`q_proj`, or PEFT's "all-linear") adapters land in both vision towers: in a small model 24 of 38.
    """
    parts = {"decoder": (DECODER,), "decoder+projector": (DECODER, PROJECTOR)}.get(target)
    if parts is None:
        if not any(re.fullmatch(target, name) for name in _linear_names(model)):
            raise UserError(f"lora.target: no linear layer's full name matches {target!r}, such as "
                            f"{_linear_names(model)[-2]!r}")  # fmt: skip
        return target
    leaves = {name.split(".")[-1] for name in _linear_names(model) if any(part in name.split(".") for part in parts)}
    return rf".*\b({'|'.join(parts)})\b.*\.({'|'.join(sorted(leaves))})"


def _linear_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def check_adapters(model: PeftModel, pattern: str, allow_towers: bool) -> None:
    """Raise UserError unless every adapted layer matches `pattern` and, but for `allow_towers`, none is in a tower."""
    adapted = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    base_names = [name.removeprefix("base_model.model.") for name in adapted]
    strays = [name for name in base_names if not re.fullmatch(pattern, name)]
    if not allow_towers:
        strays += [name for name in base_names if any(tower in name.split(".") for tower in TOWERS)]
    if strays or not adapted:
        raise UserError(f"lora.target: {len(strays)} adapters outside the target, {len(adapted)} in all: {strays[:3]}")


def unfreeze(model: PreTrainedModel, trainable: str) -> PreTrainedModel:
    """Train "all", "decoder", "projector" or the parameters whose names a regular expression finds.

    Trained parameters are kept in float32: a step of 1e-5 is lost in bfloat16's 8 bits.
    """
    pattern = re.compile(PARTS.get(trainable, trainable))
    found = [
        parameter
        for name, parameter in model.named_parameters()
        if pattern.search(name) and is_used(name, model.config)  # DDP waits for ever for a gradient that never comes
    ]
    if not found:
        raise UserError(f"model.trainable: no parameter's name matches {trainable!r}; use all, decoder or projector")
    for parameter in found:
        parameter.data = parameter.data.to(torch.float32)
        parameter.requires_grad_(True)
    return model


@dataclass
class Part:
    """Numbers of weights in one part of the model, their number types, and the modules that are trained."""

    total: int = 0
    trained: int = 0
    modules: set[str] = field(default_factory=set)
    dtypes: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        state = f"{self.trained:,} trained" if self.trained else "frozen"
        return f"{self.total:>13,} ({', '.join(sorted(self.dtypes))}), {state}"


def describe_trained(model: nn.Module) -> str:
    """Return a line for each part of the model, and the share that is trained. All fit 80 columns."""
    parts: dict[str, Part] = {}
    for name, parameter in model.named_parameters():
        label = next((part for part in (*TOWERS, PROJECTOR, DECODER) if part in name.split(".")), "lm_head")
        part = parts.setdefault(label, Part())
        part.total += (count := _num_weights(parameter))
        part.dtypes.add(str(parameter.dtype).removeprefix("torch."))
        if parameter.requires_grad:
            part.trained += count
            part.modules.add(re.sub(rf"\.(lora_\w+|{OF_PEFT}|weight|bias).*", "", name))
    total, trained = (sum(getattr(part, name) for part in parts.values()) for name in ("total", "trained"))
    num_modules = sum(len(part.modules) for part in parts.values())
    first = f"trained: {trained:,} of {total:,} parameters ({trained / total:.2%}), in {num_modules} modules"
    return "\n".join([first, *(f"  {label:22}{part}" for label, part in parts.items())])


def _num_weights(parameter: nn.Parameter) -> int:
    """Return the number of weights: bitsandbytes packs several of 4 bits in one element, ZeRO-3 keeps a share."""
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        return state.shape.numel()
    return getattr(parameter, "ds_numel", parameter.numel())
