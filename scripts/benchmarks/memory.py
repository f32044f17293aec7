"""The memory of training on this CPU, measured, against what `reeltune estimate` says without a weight.

Each case is a recipe. A model is made, loaded and trained for two optimizer steps by the trainer of `train/sft.py`,
while torch's profiler records every allocation of torch's CPU allocator. Measured is the highest sum of these and of
the tensors that the model had before. The estimate gets the recipe, the model's config and the same rows.
"""

import argparse
import gc
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import QuantState
from torch import nn
from torch.profiler import ProfilerActivity, profile

from data.batches.byte_pixels import as_bytes
from data.batches.collator import COLLATORS
from data.batches.pixels import PixelLoader
from data.packing.dataset import RowDataset, shared_prefix_rows, single_sample_rows
from data.processor import load_config, measure_visual_tokens
from scripts.benchmarks.measure import machine
from scripts.benchmarks.questions import QuestionMaker
from train.estimating.need import count
from train.estimating.situation import BaseFacts, describe_row, largest_rows, situation
from train.loop.trainer import RowTrainer
from train.model.build import random_model
from train.model.compiled import speed_up_layers
from train.model.load import quiet_libraries
from train.model.recomputed import recompute
from train.recipe.recipe import Recipe
from train.start.trainable import load_trainable

NUM_FRAMES = 8
TRAINING = {"max_steps": 2, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
LORA = {"r": 32, "alpha": 64}
# name -> shape, model, lora, training, rows: (clips, questions about each, tokens of a row), packing
CASES: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "LoRA, recomputed": {"training": {"gradient_checkpointing": True}},
    "LoRA, selectively recomputed": {"training": {"gradient_checkpointing": "selective"}},
    "LoRA, bfloat16": {"model": {"dtype": "bfloat16"}},
    "QLoRA, recomputed": {"model": {"quantization": "nf4"}, "training": {"gradient_checkpointing": True}},
    "QLoRA, selectively recomputed": {
        "model": {"quantization": "nf4"}, "training": {"gradient_checkpointing": "selective"},
    },
    "int8": {"model": {"quantization": "int8"}},
    "flash, 25 questions": {"model": {"attn_implementation": "flash"}, "questions": 25},
    "flash, selectively recomputed": {
        "model": {"attn_implementation": "flash"}, "training": {"gradient_checkpointing": "selective"},
    },
    "DoRA, with the projector": {"lora": {**LORA, "use_dora": True, "modules_to_save": ["multi_modal_projector"]}},
    "full fine-tuning": {"model": {"trainable": "all"}, "lora": None},
    "projector alone": {"model": {"trainable": "projector"}, "lora": None},
    "samples, 4 a batch": {"packing": "none", "training": {"per_device_train_batch_size": 4}},
    "60m, LoRA": {"shape": "60m", "clips": 1},
    "60m, full fine-tuning, recomputed": {
        "shape": "60m", "clips": 1, "model": {"trainable": "decoder"}, "lora": None,
        "training": {"gradient_checkpointing": True},
    },
}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure and print case by case; return the rows of `--json`."""
    quiet_libraries()
    print(f"{machine()}, torch {torch.__version__}")
    rows = []
    for name in arguments.cases:
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"case": name, **compare(Path(folder), arguments.seed, **CASES[name])})
        print(
            "{case:36} {row:40} {measured_mib:9.2f} MiB {estimated_mib:9.2f} MiB {error:+7.1%}".format(**rows[-1]),
            flush=True,
        )
    return rows


def compare(
    folder: Path,
    seed: int,
    *,
    shape: str = "tiny",
    model: dict[str, Any] | None = None,
    lora: dict[str, Any] | None = LORA,
    training: dict[str, Any] | None = None,
    clips: int = 4,
    questions: int = 5,
    packing: str = "shared_prefix",
) -> dict[str, Any]:
    """Train a recipe and estimate it; returns both peaks in MiB, and by how much the estimate is off."""
    base = folder / "base"
    made, processor = random_model(shape, torch.float32, seed)
    made.save_pretrained(base)
    processor.save_pretrained(base)
    del made
    recipe = Recipe.model_validate(
        {
            "model": {"name_or_path": str(base), "dtype": "float32", **(model or {})},
            "lora": lora,
            "data": {"train": [{"path": "none"}], "packing": packing, "rows_per_step": 2, "num_frames": NUM_FRAMES},
            "training": {**TRAINING, "output_dir": str(folder / "out"), **(training or {})},
        }
    )
    visual_tokens = measure_visual_tokens(processor, NUM_FRAMES)
    maker = QuestionMaker(processor, visual_tokens, folder, seed)
    samples = maker.about_clips(2 * clips, questions).samples
    if packing == "none":
        rows = single_sample_rows(samples, visual_tokens, seed)
    else:
        longest = max(
            shared_prefix_rows(samples, processor.tokenizer, visual_tokens, questions, 2**30, seed).groups.num_tokens
        )
        rows = shared_prefix_rows(samples, processor.tokenizer, visual_tokens, questions, clips * longest, seed)
    known = BaseFacts(load_config(str(base)), processor, visual_tokens, (), is_here=True)
    largest = largest_rows(recipe, rows)
    estimated = count(recipe, situation(recipe, known, largest, on_gpu=False)).peak
    measured = peak_of_training(recipe, rows, known)
    return {
        "row": describe_row(largest, visual_tokens),
        "measured_mib": measured / 2**20,
        "estimated_mib": estimated / 2**20,
        "error": estimated / measured - 1,
    }


def peak_of_training(recipe: Recipe, rows: RowDataset, base: BaseFacts) -> int:
    """Return the most bytes that torch's tensors have at once while a recipe is trained."""
    model = load_trainable(recipe.model.loading(), recipe.adapter(), recipe.model.trainable, seed=0)
    speed_up_layers(model, None)
    if recipe.recomputation == "selective":
        recompute(model, selectively=True)
    pixels = PixelLoader(base.processor, base.visual_tokens.num_frames)
    trainer = RowTrainer(
        model=model,
        args=recipe.training_arguments(),
        train_dataset=rows,
        data_collator=COLLATORS[recipe.data.packing](base.processor, base.visual_tokens, load_pixels=as_bytes(pixels)),
        processing_class=base.processor,
        rows_per_step=recipe.data.rows_per_step,
    )
    gc.collect()  # what an earlier case has left would be freed while this one is measured
    before = sum(storages_of(model).values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer.train()
    with tempfile.NamedTemporaryFile(suffix=".json") as trace:
        profiler.export_chrome_trace(trace.name)
        events = json.loads(Path(trace.name).read_text())["traceEvents"]
    totals = [event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]"]
    first = next(event["args"] for event in events if event["name"] == "[memory]")
    return before + max(totals) - (first["Total Allocated"] - first["Bytes"])


def storages_of(model: nn.Module) -> dict[int, int]:
    """Return the bytes of each storage behind a model's parameters and buffers, and behind what quantises them."""
    tensors: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        tensors += [] if state is None else of_state(state)
        tensors += [each for each in vars(parameter).values() if isinstance(each, torch.Tensor)]
    return {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}


def of_state(state: QuantState) -> list[torch.Tensor]:
    inner = [] if state.state2 is None else of_state(state.state2)
    return [each for each in vars(state).values() if isinstance(each, torch.Tensor)] + inner
