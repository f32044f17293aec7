"""Launched by `test_fsdp2.py`: the model spread over two gloo processes by torch's own fully_shard, as fsdp2.yaml says.

FOLDER holds the model and its data; OUT gets the gradients and the saved weights, gathered, and what was spread.
"""

import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, init_device_mesh

from data.batches.collator import RowCollator
from data.packing.dataset import shared_prefix_rows
from data.processor import set_up_processor
from data.sources.source import Source
from data.tokens.corpus import load_corpus
from train.loop.loss import labelled_positions, token_loss
from train.model.adapters import add_adapter
from train.model.empty_towers import accept_empty_batches
from train.model.load import load_model
from train.ranks.processes import among_processes


def load(folder: Path, quantization: str | None = None):
    model = load_model(str(folder), quantization=quantization)
    torch.manual_seed(0)
    model = add_adapter(model, r=2, alpha=4, dropout=0.0, init_lora_weights=False)
    accept_empty_batches(model)
    return model


def spread(model, layers: list[str]) -> list[str]:
    """Return the names of the modules that fsdp2.yaml's policy spreads by themselves; then the rest of the model."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=layers
    )
    wants = fsdp2_prepare_auto_wrap_policy(plugin, model)
    names = [name for name, module in model.named_modules() if wants(module)]
    mesh = init_device_mesh("cpu", (2,))
    for name in reversed(names):
        fully_shard(model.get_submodule(name), mesh=mesh)
    fully_shard(model, mesh=mesh)
    return names


def batches(folder: Path, towers=()):
    """Return a clip with its picture, a picture, text, and nothing."""
    processor, visual_tokens, _ = set_up_processor(str(folder), num_frames=2)
    samples = load_corpus([Source(folder / "train.json")], processor.tokenizer, visual_tokens, 256).samples
    rows = shared_prefix_rows(samples, processor.tokenizer, visual_tokens, 4, 256, seed=0)
    collate = RowCollator(processor, visual_tokens, towers)
    return [collate([rows[[index]]]) for index in range(len(rows.groups))] + [collate([])]


def backward(model, batch) -> None:
    inputs = {name: value for name, value in batch.items() if name != "counts"}
    positions, targets = labelled_positions(inputs.pop("labels"))
    token_loss(model(**inputs, logits_to_keep=positions).logits, targets, 10).backward()


def gradients(model) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in found.items()}


def main(folder: Path, out: Path, quantization: str, *layers: str) -> None:
    rank = PartialState(cpu=True, backend="gloo").process_index
    os.environ["ACCELERATE_USE_FSDP"] = "true"  # weights of 4 bits are stored otherwise then
    model = load(folder, None if quantization == "none" else quantization)
    names = spread(model, list(layers))
    shares = sum(p.to_local().numel() for p in model.parameters()) / sum(p.numel() for p in model.parameters())
    mine = batches(folder, ("image", "video"))
    for first, second in ((0, 1), (3, 2), (4, 0)):  # the kinds that meet
        backward(model, mine[(first, second)[rank]])
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)
    found = gradients(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    set_model_state_dict(model, dict(weights) if rank == 0 else {}, options=StateDictOptions(full_state_dict=True,
                         broadcast_from_rank0=True))  # fmt: skip
    again = get_model_state_dict(model, options=options)
    if rank == 0:
        torch.save({"names": names, "share": shares, "gradients": found, "weights": weights, "again": again}, out)


if __name__ == "__main__":
    with among_processes():
        main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
