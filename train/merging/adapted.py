"""An adapter on a bare model: PEFT's own modules, the adapter's tensors in place, the base's not read yet."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors import SafetensorError, safe_open
from torch import nn

from data.checkpoint_files import ADAPTER_CONFIG, read_json
from data.errors import UserError, one_line
from train.merging.tensors import Weights
from train.model.adapter_settings import INITS_BESIDE_BASE, check_patterns
from train.model.initialisation import ADAPTER
from train.results.artifact import Artifact
from train.results.loading import check_places, first_misfit

# What PEFT puts into the names of the base's tensors.
AROUND = {"base_layer", "original_module", "token_adapter", "modules_to_save", ADAPTER}
# PEFT's ways to begin that decide nothing once matrices are loaded.
WITHOUT_TRACE = (*INITS_BESIDE_BASE, "mica")


@dataclass(frozen=True)
class Adapted:
    """A bare model with an adapter. changed: name -> the module of PEFT's around it. init: how PEFT changes the base
    before it adds the matrices ("pissa" and the like), None where it does not."""

    model: nn.Module
    changed: dict[str, nn.Module]
    init: str | None

    @property
    def layers(self) -> list[BaseTunerLayer]:
        return [module for module in self.model.modules() if isinstance(module, BaseTunerLayer)]


def put_adapter(artifact: Artifact, model: nn.Module) -> Adapted:
    """Put a saved adapter on a bare model, in place. Raises UserError where it does not fit."""
    init = init_of(artifact)
    add_adapter(artifact, model, ADAPTER)
    model.requires_grad_(False).eval()
    return Adapted(model, dict(_outermost(model)), init)


def add_adapter(artifact: Artifact, model: nn.Module, name: str, beside: PeftModel | None = None) -> PeftModel:
    """Give a bare model PEFT's modules and the tensors of a saved adapter, in place.

    name: of the adapter in PEFT. beside: what an earlier call returned for the same model. Raises UserError where the
    adapter does not fit.
    """
    assert artifact.adapter_weights is not None
    check_patterns(artifact.name_or_path, settings_of(artifact), [name for name, _ in model.named_modules()])
    config = LoraConfig.from_pretrained(artifact.name_or_path)
    assert isinstance(config, LoraConfig)  # `check_adapter_settings` lets no other kind pass
    config.init_lora_weights, config.base_model_name_or_path = True, None
    try:
        with safe_open(artifact.adapter_weights, framework="pt") as file:
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (mapped)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)  # PEFT asks transformers in old words
            adapted: Any = beside
            if adapted is None:
                whole: Any = model
                adapted = get_peft_model(whole, config, adapter_name=name, low_cpu_mem_usage=True)
            else:
                adapted.add_adapter(name, config, low_cpu_mem_usage=True)
        # PEFT's names in files -> its names in the model: the same parameter has both
        own = {id(parameter): name for name, parameter in adapted.named_parameters(remove_duplicate=False)}
        kept = adapted.state_dict(keep_vars=True)
        places = get_peft_model_state_dict(adapted, state_dict=kept, adapter_name=name, save_embedding_layers=False)
        check_places(artifact, saved, places)
        tensors = {own[id(places[name])]: tensor for name, tensor in saved.items()}
        adapted.load_state_dict(tensors, strict=False, assign=True)
    except SafetensorError as problem:
        raise UserError(f"{artifact.adapter_weights} is damaged: {one_line(problem)}") from problem
    except UserError:
        raise
    except Exception as problem:  # whatever PEFT makes of a stranger's file
        raise UserError(
            f"{artifact.name_or_path} does not fit its base {artifact.base}: {first_misfit(problem)}; give the base it "
            "was trained on with --base"
        ) from problem
    return adapted


def settings_of(artifact: Artifact) -> dict[str, Any]:
    """Return an adapter's settings as its file has them."""
    assert artifact.adapter_weights is not None
    return read_json(artifact.adapter_weights.with_name(ADAPTER_CONFIG))


def init_of(artifact: Artifact) -> str | None:
    """Return the initialisation that takes a part out of the base's weights, None for all others."""
    init = settings_of(artifact).get("init_lora_weights", True)
    if init in WITHOUT_TRACE:
        return None
    if not isinstance(init, str) or not (init == "olora" or init.startswith("pissa")):
        raise UserError(
            f"{artifact.name_or_path}: init_lora_weights is {init!r}, which changes the base in a way that cannot be "
            "repeated here; convert it first (PEFT's save_pretrained with path_initial_model_for_weight_conversion "
            "writes an ordinary adapter)"
        )
    if artifact.quantization:
        raise UserError(
            f"{artifact.name_or_path}: init_lora_weights is {init!r}, and its base was quantised: what was left of the "
            "weights when training began is not known"
        )
    return init


def _outermost(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield PEFT's modules that are in no other of its modules, by the names of what they stand for."""
    for name, child in module.named_children():
        if isinstance(child, BaseTunerLayer | AuxiliaryTrainingWrapper):
            yield prefix + name, child
        else:
            yield from _outermost(child, f"{prefix}{name}.")


def name_in_base(name: str) -> str:
    """Return the base's own name of a tensor inside PEFT's modules."""
    return ".".join(part for part in name.split(".") if part not in AROUND)


def is_matrix(name: str) -> bool:
    """Tell whether a tensor is one of the adapter's matrices, with which PEFT computes in float32."""
    return any(part.startswith("lora_") for part in name.split("."))


@contextmanager
def filled(
    module: nn.Module, prefix: str, weights: Weights, place: Callable[[torch.Tensor, bool], torch.Tensor], deep: bool
) -> Iterator[None]:
    """Give a module its tensors for as long as the context lasts: the base's are read, the adapter's are there.

    prefix: the module's name and a dot, "" for the whole model. place(tensor, is_matrix): puts a tensor where it is
    needed, in the number type that is needed. deep: with those of the modules inside.
    """
    before: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for name, parameter in list(module.named_parameters(recurse=deep)):
            inside, _, leaf = name.rpartition(".")
            tensor = weights(name_in_base(prefix + name)) if parameter.is_meta else parameter.data
            owner = module.get_submodule(inside)
            before.append((owner, leaf, parameter))
            setattr(owner, leaf, nn.Parameter(place(tensor, is_matrix(name)), requires_grad=False))
        yield
    finally:
        for owner, leaf, parameter in before:
            setattr(owner, leaf, parameter)


class Residuals:
    """The base's weights without the part that PEFT takes out before it adds the matrices of PiSSA and OLoRA."""

    def __init__(self, weights: Weights, adapted: Adapted):
        self.weights, self.adapted = weights, adapted

    def __call__(self, name: str) -> torch.Tensor:
        tensor = self.weights(name)
        layer = self.adapted.changed.get(name.removesuffix(".weight"))
        if self.adapted.init is None or not isinstance(layer, LoraLayer):
            return tensor
        base: Any = layer.get_base_layer()
        matrices: list[Any] = [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]
        before, own = base.weight, [matrix.data for matrix in matrices]
        try:
            base.weight = nn.Parameter(tensor.clone(), requires_grad=False)  # a mapped one must not be written into
            if self.adapted.init == "olora":
                layer.olora_init(ADAPTER)
            else:
                layer.pissa_init(ADAPTER, self.adapted.init)
            return base.weight.data
        finally:
            base.weight = before
            for matrix, data in zip(matrices, own, strict=True):
                matrix.data = data
