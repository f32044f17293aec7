"""torch.compile for the layers of the decoder, one graph for all of them and for rows of any length."""

from torch import nn


def compile_layers(model: nn.Module, backend: str = "inductor") -> None:
    """Compile every decoder layer but the last in place; parameters keep their names.

    model: a Video-LLaVA, with or without PEFT's adapters around it. The last layer stays as it is: it computes the
    suffixes alone, through hooks that a graph of the other layers would not see (`train.model.last_layer`).

    The layers share their code, so what is compiled for one serves all: one graph where the input has a gradient and
    one for the first layer, whose input has none.
    """
    for layer in model.get_decoder().layers[:-1]:
        layer.compile(backend=backend, dynamic=True)
