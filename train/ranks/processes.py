"""The processes of a run: how they find each other, and what all of them must do together."""

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from torch import nn
from transformers import TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from data.command import tell_error
from data.errors import UserError, first_line
from data.packing.rows import Rows
from data.video_llava import DECODER
from train.ranks.beginning import FROM_CHECKPOINT

LAYER = re.compile(r"\.layers?\.\d+$")  # the end of the name of a decoder's or tower's layer


def num_launched() -> int:
    """Return how many processes the launcher started, on all machines."""
    return int(os.environ.get("WORLD_SIZE", 1))


def uses_deepspeed() -> bool:
    """Tell whether the accelerate config names DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() in ("true", "1")


def uses_fsdp() -> bool:
    """Tell whether the accelerate config names FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1")


def holds_whole_model() -> bool:
    """Tell whether every process has all weights of the model, and can run it alone."""
    return not (uses_fsdp() or is_deepspeed_zero3_enabled())


def layers_stay_whole() -> bool:
    """Tell whether neither DeepSpeed nor FSDP puts hooks of theirs into the layers."""
    return not (uses_deepspeed() or uses_fsdp())


def device_of_weights() -> dict[str, torch.device] | None:
    """Return the `device_map` by which this process reads a checkpoint: straight onto its own accelerator.

    Otherwise every rank would hold a copy in main memory, converted to the recipe's number type, before it moves: eight
    of 14.7 GB for a 7B model in bfloat16. None where weights stay there, or are spread over the ranks.
    """
    device = PartialState().device
    assert device is not None  # it is set once the state is
    return None if device.type == "cpu" or not holds_whole_model() else {"": device}


def cpu_processes() -> dict[str, Any]:
    """Return arguments of `TrainingArguments` for a run without an accelerator; set before anything imports DeepSpeed.

    Without `use_cpu` several processes would train apart, unconnected; with it DeepSpeed would be switched off. By
    itself accelerate gives each of them a CPU by number, onto which transformers 5.17 cannot load a checkpoint.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
    return {"use_cpu": not uses_deepspeed(), "ddp_backend": "gloo" if num_launched() > 1 else None}


def connect() -> None:
    """Join the processes that a launcher started to answer questions, each with the whole model. ALL RANKS.

    Each has its own GPU where there are any.
    """
    if num_launched() == 1:
        return
    if uses_deepspeed() or uses_fsdp():
        raise UserError(
            "each process answers with the whole model: launch with multi_gpu.yaml or cpu_2.yaml of "
            "accelerate_configs/, not with a file that spreads it"
        )
    on_cpu = not torch.cuda.is_available()
    PartialState(cpu=on_cpu, **({"backend": "gloo"} if on_cpu else {}))


def check_connected(accelerator: Accelerator) -> None:
    """Raise UserError where processes would train apart: each would report a run of its own."""
    if num_launched() > 1 and accelerator.num_processes != num_launched():
        raise UserError(
            f"{num_launched()} processes were launched but are not connected, this one sees "
            f"{accelerator.num_processes}; launch with a file of accelerate_configs/"
        )


def name_layers_to_spread(model: nn.Module) -> None:
    """Tell Accelerate which modules FSDP spreads: the layers of this decoder and these towers, whatever their family.

    Accelerate's file names classes, and one that a model does not have is an error there. Weights of 4 bits every
    process has read by itself; accelerate 1.13 would have the first send its own to the others, and cannot.
    """
    if uses_fsdp():
        classes = {type(module).__name__ for name, module in model.named_modules() if LAYER.search(name)}
        os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = ",".join(sorted(classes))
        if any(hasattr(parameter, "quant_state") for parameter in model.parameters()):
            os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def towers_of_all_ranks(args: TrainingArguments, model: nn.Module, *datasets: Rows | None) -> set[str]:
    """Return the kinds of media whose tower runs in every batch of every rank, whatever the batch holds.

    Where weights or gradients are spread over ranks, all of them must run the same modules in the same order: a rank
    with text alone would leave the others waiting for ever. The same towers always, because DeepSpeed fetches weights
    ahead in the order of the batch before. One process runs what a batch needs, unless it trains more than the decoder:
    Adam moves a parameter whose gradient is zero and leaves one without a gradient, and any number of processes shall
    do the same.
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if args.world_size == 1 and all(DECODER in name.split(".") or "lm_head" in name.split(".") for name in trained):
        return set()
    return set().union(*(rows.kinds() for rows in datasets if rows is not None))


def refuse_impossible(
    args: TrainingArguments,
    quantization: str | None,
    on_nonfinite: str = "stop",
    init: bool | str = True,
    adds_tokens: bool = False,
) -> None:
    """Raise UserError for what these processes cannot do with such weights, before any is loaded."""
    plugin = args.deepspeed_plugin
    if plugin is not None and on_nonfinite == "skip":
        raise UserError(
            "on_nonfinite: skip is impossible with DeepSpeed, which takes the optimizer step inside the backward pass; "
            "use on_nonfinite=stop, or accelerate_configs/multi_gpu.yaml"
        )
    if plugin is not None and plugin.zero_stage == 3 and quantization:
        raise UserError(
            f"model.quantization: {quantization} weights cannot be spread by DeepSpeed ZeRO-3; use zero2.yaml, "
            "multi_gpu.yaml or (nf4, fp4) fsdp2.yaml of accelerate_configs/, or model.quantization=null"
        )
    if uses_fsdp() and quantization == "int8":
        raise UserError(
            "model.quantization: int8 weights cannot be spread by FSDP; use model.quantization=nf4, or "
            "accelerate_configs/multi_gpu.yaml"
        )
    if uses_fsdp() and os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("fsdp_config: fsdp_version 1 is not supported; use accelerate_configs/fsdp2.yaml")
    spreads_weights = uses_fsdp() or (plugin is not None and plugin.zero_stage == 3)
    if spreads_weights and str(init).startswith(("pissa", "olora")):
        raise UserError(
            f"lora.init_lora_weights: {init} needs whole weights, which FSDP and DeepSpeed ZeRO-3 spread; use "
            "init_lora_weights=true, or zero2.yaml or multi_gpu.yaml of accelerate_configs/"
        )
    if spreads_weights and adds_tokens:
        raise UserError(
            "model.add_tokens: new tokens need whole embeddings, which FSDP and DeepSpeed ZeRO-3 spread; use "
            "zero2.yaml or multi_gpu.yaml of accelerate_configs/"
        )
    if args.n_gpu > 1:
        raise UserError(
            f"one process sees {args.n_gpu} GPUs; launch a process for each with accelerate_configs/multi_gpu.yaml, or "
            "show it one with CUDA_VISIBLE_DEVICES=0"
        )


def refuse_other_shares(checkpoint: str | None, args: TrainingArguments) -> None:
    """Raise UserError for a checkpoint of DeepSpeed that another number of processes has shared out."""
    if checkpoint is None or args.deepspeed_plugin is None:
        return
    num_shares = len(list(Path(checkpoint).glob("global_step*/*zero_pp_rank_*_optim_states.pt")))
    if num_shares not in (0, args.world_size):
        raise UserError(
            f"resume: DeepSpeed saved {checkpoint} with {num_shares} processes and cannot take {args.world_size}: "
            f"launch {num_shares}, or start over with --fresh"
        )


LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "NCCL", "gloo")
GLOO_SECONDS = 0.5  # it takes milliseconds, on a busy machine tens of them


@contextmanager
def among_processes(goes_on: str = FROM_CHECKPOINT) -> Iterator[None]:
    """Say in one line that another process was killed, or its machine went away; the exit status is 1 then.

    goes_on: what the same command does. However a run ends, gloo's threads get the time to drop the tensors of the last
    exchange, which are Python's: one that came when Python is ending would abort the process (torch 2.14).
    """
    try:
        yield
    except RuntimeError as error:
        if num_launched() == 1 or not any(word in str(error) for word in LOST):
            raise
        reason = first_line(error)
        tell_error(
            f"process {os.environ['RANK']} of {num_launched()} lost the connection to another one: {reason}; "
            f"the same command, on all machines, {goes_on}",
            by_all=True,
        )
        sys.exit(1)
    finally:
        if dist.is_initialized() and dist.get_backend() == "gloo":
            time.sleep(GLOO_SECONDS)
    if dist.is_initialized():
        dist.destroy_process_group()
