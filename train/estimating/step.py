"""One step of a recipe's training, run on shapes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from data.tokens.encoding import IGNORE_INDEX
from data.video_llava import PROJECTOR, TOWERS
from train.estimating.ledger import Ledger
from train.estimating.shapes import Shapes
from train.estimating.weights import make_optimizer, optimizer_step
from train.loop.loss import labelled_positions, token_loss
from train.model.attention import forget_masks
from train.model.last_layer import decoder_layers

INPUTS = "inputs and masks"
DECODER, HEAD, BACKWARD, GRADIENTS = (
    "activations of the decoder",
    "logits and loss",
    "working memory of backward",
    "gradients",
)
OPTIMIZER = "optimizer"
MAKERS = {**dict.fromkeys(TOWERS, "activations of the towers"), PROJECTOR: "activations of the towers", "lm_head": HEAD}


@dataclass(frozen=True)
class Step:
    """The memory and work of a step on shapes.

    peaks: of each window of the step the most that lived in it at once, beside weights and states, by the part that
    made it. Windows are "start", "forward N" and "backward N" of layers, "forward head", "backward head", "optimizer".
    states: what the optimizer keeps. inputs: those of a micro-batch. Work is that of a micro-batch, both ways.
    """

    peaks: dict[str, Counter[str]]
    states: int
    flops: int
    bytes_moved: int
    launches: int
    inputs: int


def run_step(
    model: nn.Module,
    make_batch: Callable[[], dict[str, Any]],
    args: TrainingArguments,
    dtype: torch.dtype,
    *,
    on_gpu: bool,
    accumulates: bool,
) -> Step:
    """Run forward, backward and the optimizer's step of a model on the meta device, which is of no use afterwards.

    make_batch: makes what a collator returns, called where pixels are shapes. accumulates: a step has several
    micro-batches, so that gradients are there while one is computed.
    """
    forget_masks()
    ledger = Ledger(INPUTS, on_gpu)
    shapes = Shapes(ledger.watch)
    shapes.take(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(args, trained)
    with shapes:
        batch = make_batch()
        inputs = ledger.total
        ledger.peaks.clear()
        for parameter in trained if accumulates else ():
            parameter.grad = torch.empty_like(parameter)
        ledger.move((each.grad for each in trained if each.grad is not None), GRADIENTS)
        follow(model, trained, ledger)
        _forward_and_backward(model, batch, dtype, ledger)
        work = ledger.flops, ledger.bytes_moved, ledger.launches
        del batch
        ledger.part = ledger.window = OPTIMIZER
        states = optimizer_step(optimizer, args.max_grad_norm)
    peaks = dict(ledger.peaks)
    peaks[OPTIMIZER] = peaks.get(OPTIMIZER, Counter()) - Counter({OPTIMIZER: states})  # counted by themselves
    return Step(peaks, states, *work, inputs)


def _forward_and_backward(model: nn.Module, batch: dict[str, Any], dtype: torch.dtype, ledger: Ledger) -> None:
    """Compute as `train.loop.trainer.RowTrainer.compute_loss` does, under Trainer's autocast."""
    inputs = {name: _normalised(value) for name, value in batch.items() if name not in ("counts", "names")}
    positions, targets = labelled_positions(inputs.pop("labels"))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits = model(**inputs, logits_to_keep=positions).logits
    ledger.part = HEAD
    loss = token_loss(logits.float(), targets, int((targets != IGNORE_INDEX).sum()))
    del logits
    ledger.part, ledger.adds_in_place = BACKWARD, True
    ledger.window = "backward head"
    loss.backward()


def _normalised(value: Any) -> Any:
    """Return what `data.batches.byte_pixels.Normalisation` does, in shape."""
    is_bytes = isinstance(value, torch.Tensor) and value.dtype == torch.uint8
    return torch.empty(value.shape, dtype=torch.float32) if is_bytes else value


def follow(model: nn.Module, trained: list[nn.Parameter], ledger: Ledger) -> None:
    """Have modules say in whose name tensors are made and in which window, and parameters where gradients are."""

    def enter(part: str, window: str) -> Callable:
        def note(*_: Any) -> None:
            if ledger.part != BACKWARD:  # else the layer is recomputed
                ledger.part, ledger.window = part, window

        return note

    def leave(window: str) -> Callable:
        def begin(gradient: torch.Tensor) -> None:
            ledger.window = window

        def note(module: nn.Module, args: tuple, output: Any) -> None:
            state = output[0] if isinstance(output, tuple) else output
            if ledger.part != BACKWARD and isinstance(state, torch.Tensor) and state.requires_grad:
                state.register_hook(begin)  # its gradient is there: this layer's turn
                ledger.part = HEAD if window == f"backward {num_layers - 1}" else ledger.part

        return note

    layers = decoder_layers(model)
    num_layers = len(layers)
    for number, layer in enumerate(layers):
        layer.register_forward_pre_hook(enter(DECODER, f"forward {number}"))
        layer.register_forward_hook(leave(f"backward {number}"))
    for name, module in model.named_modules():
        if (part := MAKERS.get(name.rpartition(".")[2])) is not None:
            module.register_forward_pre_hook(enter(part, "forward head" if part == HEAD else "start"))
    for parameter in trained:
        parameter.register_post_accumulate_grad_hook(lambda each: ledger.move([each.grad], GRADIENTS))
