"""torch.compile for the layers of the decoder: one graph for all of them and for rows of any length."""

from collections.abc import Callable

from torch import nn
from transformers import TrainingArguments

from train.model.last_layer import decoder_layers, run_last_layer_on_suffixes


def take_over(args: TrainingArguments) -> dict[str, str | None] | None:
    """Return backend and mode of the compiler where a recipe asks for torch_compile, and keep Trainer from compiling
    the whole model, which would run the hooks of one layer for another."""
    if not args.torch_compile:
        return None
    wanted = {"backend": args.torch_compile_backend, "mode": args.torch_compile_mode}
    args.torch_compile, args.torch_compile_backend, args.torch_compile_mode = False, None, None
    return wanted


def speed_up_layers(model: nn.Module, compilation: dict[str, str | None] | None) -> None:
    """Run the last decoder layer on suffixes alone, and compile the others where `take_over` says so."""
    run_last_layer_on_suffixes(model)
    if compilation is not None:
        compile_layers(model, compilation["backend"] or "inductor", compilation["mode"])


def compile_layers(model: nn.Module, backend: str | Callable = "inductor", mode: str | None = None) -> None:
    """Compile every decoder layer but the last in place; parameters keep their names.

    The last layer stays as it is: it computes the suffixes alone, through hooks that a graph of the other layers would
    not see (`train.model.last_layer`).

    The layers share their code, so what is compiled for one serves all: one graph for the first layer, whose input has
    no gradient unless layers are recomputed, and one for the others.
    """
    for layer in list(decoder_layers(model))[:-1]:
        layer.compile(backend=backend, mode=mode, dynamic=True)
