"""A training step of LoRA and of QLoRA as the recipes take it, against a plain step, on a GPU.

plain  one sample a question, padded batches, the model's own loss over logits of every position: HF's Trainer
ours   the questions about a clip behind one copy of it, in packed rows, with one attention or another

Forward and backward are measured by themselves, the optimizer's step (with clipping) by itself. Seconds a question are
those of a step of ROWS_PER_STEP rows, or of as many questions in plain batches. Autocast and number types are those of
the trainer. Random weights; nothing is loaded in the measured passes.

FLOPs are those of the matrix products that a pass needs, counted as they run without recomputation (frozen weights
have no gradient), and of attention by its visible pairs: 4 x width a pair forward, 8 backward.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from bitsandbytes.optim import PagedAdamW8bit
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from data.files import write_whole
from data.packing.layout import RowLayout
from data.processor import measure_visual_tokens
from data.tokens.encoding import IGNORE_INDEX
from scripts.benchmarks.attention_flops import UNCOUNTED, attention_flops
from scripts.benchmarks.measure import machine, matmul_speed, seconds
from scripts.benchmarks.quantise import quantise
from scripts.benchmarks.questions import QuestionMaker
from scripts.benchmarks.ways import full_logits_loss, labelled_logits_loss
from train.model.adapters import add_adapter
from train.model.attention import SHARED_PREFIX, SHARED_PREFIX_UNMASKED
from train.model.build import SHAPES, random_model
from train.model.compiled import speed_up_layers
from train.model.recomputed import recompute

ATTENTION = {"sdpa": SHARED_PREFIX, "flash": SHARED_PREFIX_UNMASKED}
ROWS_PER_STEP = 16  # the recipes'
MATMUL_SIZE = {"cuda": 8192, "cpu": 1024}
DTYPE = {"cuda": torch.bfloat16, "cpu": torch.float32}  # a CPU may take minutes for bfloat16
NUM_FRAMES = 8
MAX_GRADIENT_NORM = 1.0  # transformers' default


@dataclass(frozen=True)
class Setting:
    """One of the recipes: how the decoder's weights are kept, the adapter's rank, and what is recomputed."""

    name: str
    is_quantised: bool
    rank: int
    recomputation: str


SETTINGS = {
    each.name: each
    for each in (
        Setting("lora", is_quantised=False, rank=128, recomputation="none"),
        Setting("lora-selective", is_quantised=False, rank=128, recomputation="selective"),
        Setting("lora-recomputed", is_quantised=False, rank=128, recomputation="full"),
        Setting("qlora", is_quantised=True, rank=64, recomputation="full"),
        Setting("qlora-selective", is_quantised=True, rank=64, recomputation="selective"),
    )
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=("tiny", "60m", "7b"), default="7b")
    parser.add_argument("--settings", choices=SETTINGS, nargs="+", default=["lora", "qlora"])
    parser.add_argument("--attention", choices=ATTENTION, nargs="+", default=list(ATTENTION))
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 8, 25], help="about a clip, a case each")
    parser.add_argument("--clips", type=int, nargs="+", default=[1], help="in a row, a case each")
    parser.add_argument("--plain-batches", type=int, nargs="*", default=[1, 4], help="sizes; the fastest counts")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="the decoder's layers, as training.torch_compile does")
    parser.add_argument("--profile", type=Path, help="the operations that take most time are written here")
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure and print case by case; return the rows of `--json`."""
    rows = []
    device = "cuda" if torch.cuda.is_available() else "cpu"
    speed = matmul_speed(device, DTYPE[device], MATMUL_SIZE[device], repetitions=30)
    about = {
        "machine": machine(),
        "torch": torch.__version__,
        "dtype": str(DTYPE[device]).removeprefix("torch."),
        "matmul_tflops": speed / 1e12,
        "shape": arguments.shape,
        "compiled": arguments.compile,
    }
    print("{machine}, torch {torch}, {matmul_tflops:,.2f} TFLOP/s in a {dtype} product; {shape}".format(**about))
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.settings:
            trained = Trained(arguments.shape, SETTINGS[name], Path(folder), arguments.seed, arguments.compile)
            about["optimizer_s"] = trained.optimizer_seconds(arguments.repetitions)
            plain = trained.plain(sizes, arguments.repetitions) if (sizes := arguments.plain_batches) else {}
            for clips in arguments.clips:
                for questions in arguments.questions:
                    for attention in arguments.attention:
                        case = trained.packed(attention, clips, questions, arguments.repetitions)
                        if case is None:
                            continue
                        rows.append({**about, "case": "gpu", "setting": name, **case, **plain})
                        finish(rows[-1], speed)
                        print(describe(rows[-1]), flush=True)
                        if arguments.json:  # whoever cuts the run off keeps the cases that were done
                            write_whole(arguments.json, json.dumps(rows, indent=2) + "\n")
            if arguments.profile:
                profiled = trained.profile(arguments.attention[-1], arguments.clips[-1], max(arguments.questions))
                arguments.profile.with_suffix(f".{name}.txt").write_text(profiled)
            del trained
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return rows


def finish(row: dict[str, Any], speed: float) -> None:
    """Put in what follows from a row's measurements."""
    questions = row["clips_per_row"] * row["questions_per_clip"]
    row["ours_s"] = row["row_s"] / questions + row["optimizer_s"] / (ROWS_PER_STEP * questions)
    row["questions_per_s"] = 1 / row["ours_s"]
    row["tflops"] = row["flops"] / row["row_s"] / 1e12
    row["mfu"] = row["flops"] / row["row_s"] / speed
    if "sample_s" in row:
        row["plain_s"] = row["sample_s"] + row["optimizer_s"] / (ROWS_PER_STEP * questions)
        row["ratio"] = row["plain_s"] / row["ours_s"]


class Trained:
    """A random model with its adapter and optimizer."""

    def __init__(self, shape: str, setting: Setting, folder: Path, seed: int, compiles: bool):
        self.setting = setting
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.device(self.device):
            base, processor = random_model(shape, DTYPE[self.device], seed)
        if setting.is_quantised:
            quantise(base.get_decoder())
            base.is_loaded_in_4bit = True  # pyrefly: ignore[bad-argument-type] PEFT looks for this attribute
        rank = min(setting.rank, SHAPES[shape].decoder.hidden // 4)  # the tiny shape's width is 128
        adapter = {"r": rank, "alpha": 2 * rank, "dropout": 0.05}
        self.model = add_adapter(base.requires_grad_(False), **adapter).train()
        compilation = {"backend": None, "mode": None} if compiles else None
        speed_up_layers(self.model, compilation, recomputes=setting.recomputation != "none")
        base.config.use_cache = False  # as Trainer sets it
        self.recompute(setting.recomputation)
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = self._optimizer()
        self.maker = QuestionMaker(processor, measure_visual_tokens(processor, NUM_FRAMES), folder, seed)

    def _optimizer(self) -> torch.optim.Optimizer:
        if self.setting.is_quantised and self.device == "cuda":
            return PagedAdamW8bit(self.trained, lr=1e-5)
        return torch.optim.AdamW(self.trained, lr=1e-5, fused=True)

    def recompute(self, what: str) -> None:
        """Switch recomputation as the trainer does."""
        self.model.gradient_checkpointing_disable()
        if what != "none":
            recompute(self.model, what == "selective")

    def optimizer_seconds(self, repetitions: int) -> float:
        for parameter in self.trained:
            parameter.grad = torch.full_like(parameter, 1e-3)

        def step() -> None:
            nn.utils.clip_grad_norm_(self.trained, MAX_GRADIENT_NORM)
            self.optimizer.step()

        taken = [seconds(step) for _ in range(repetitions + 1)][1:]
        self.model.zero_grad()
        return median(taken)

    def packed(self, attention: str, clips: int, questions: int, repetitions: int) -> dict[str, Any] | None:
        """Measure a row of `clips` groups of `questions` questions; None where it does not fit."""
        batch = self._row(clips, questions)
        layout = batch["row_layout"]
        step = self._pass(ATTENTION[attention], labelled_logits_loss, batch)
        measured = self._measure(step, repetitions, f"rows of {clips} x {questions}")
        if measured is None:
            return None
        return {
            "attention": attention,
            "clips_per_row": clips,
            "questions_per_clip": questions,
            "tokens": sum(layout.group_lengths),
            "row_s": measured["s"],
            "peak_mib": measured["peak_mib"],
            "spread": {"row_s": measured["spread"]},
            "recomputation": self.setting.recomputation,
            "flops": self._flops(step, layout, clips),
        }

    def plain(self, sizes: list[int], repetitions: int) -> dict[str, Any]:
        """Measure batches of samples, one clip and one question each, of the fastest of these sizes that fit."""
        found = {}
        for size in sizes:
            questions = self.maker.about_clips(size, 1)
            (batch,) = self._on_device(questions.batches(size))
            with torch.compiler.set_stance("force_eager"):  # as Trainer runs it
                step = self._pass("sdpa", full_logits_loss, batch)
                measured = self._measure(step, repetitions, f"plain batches of {size}")
            if measured is not None:
                found[size] = measured["s"] / size, measured["peak_mib"]
        if not found:
            return {}
        best = min(found, key=lambda size: found[size][0])
        return {"sample_s": found[best][0], "plain_batch": best, "plain_peak_mib": found[best][1]}

    def profile(self, attention: str, clips: int, questions: int) -> str:
        """Return the operations of a row, by the device's time."""
        step = self._pass(ATTENTION[attention], labelled_logits_loss, self._row(clips, questions))
        step()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            wall = seconds(step)
        events = profiler.key_averages()
        busy = sum(event.self_device_time_total for event in events if event.device_type.name == "CUDA") / 1e6
        table = events.table(sort_by="self_device_time_total", row_limit=60, max_name_column_width=90)
        return f"{wall:.4f} s while profiled, the device busy for {busy:.4f} s\n{table}\n"

    def _row(self, clips: int, questions: int) -> dict[str, Any]:
        (batch,) = self._on_device(self.maker.about_clips(clips, questions).rows(clips))
        return batch

    def _on_device(self, batches: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for batch in batches:
            yield {key: value.to(self.device) if torch.is_tensor(value) else value for key, value in batch.items()}

    def _pass(self, attention: str, loss: Callable, batch: dict[str, Any]) -> Callable[[], None]:
        batch = {key: value for key, value in batch.items() if key not in ("counts", "names")}
        num_items = int((batch["labels"] != IGNORE_INDEX).sum())
        cast(PreTrainedModel, self.model.get_base_model()).set_attn_implementation({"text_config": attention})

        def step() -> None:
            with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
                value = loss(self.model, dict(batch), num_items)
            value.backward()

        return step

    def _measure(self, step: Callable[[], None], repetitions: int, what: str) -> dict[str, Any] | None:
        """Median seconds, and the peak of all memory, weights and optimizer included; None for what does not fit."""
        taken: list[float] = []
        with suppress(torch.OutOfMemoryError):
            step()
            if self.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            taken = [seconds(step) for _ in range(repetitions)]
        if not taken:  # the error, and with it the tensors of the pass, is gone
            print(f"{what} do not fit", flush=True)
            self.model.zero_grad()
            torch.cuda.empty_cache()
            return None
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.device == "cuda" else None
        self.model.zero_grad()
        return {"s": median(taken), "spread": [min(taken), max(taken)], "peak_mib": peak}

    def _flops(self, step: Callable[[], None], layout: RowLayout, clips: int) -> int:
        """Return the FLOPs of a row without recomputation."""
        self.recompute("none")
        with (
            torch.compiler.set_stance("force_eager"),
            FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter,
        ):
            step()
        self.recompute(self.setting.recomputation)
        self.model.zero_grad()
        config = self.model.config
        attention = attention_flops(config.text_config, config.vision_config, layout, NUM_FRAMES * clips)
        return counter.get_total_flops() + attention


def describe(row: dict[str, Any]) -> str:
    ratio = "{ratio:.2f}x a plain step ({plain_batch} a batch), ".format(**row) if "ratio" in row else ""
    peak = f"{row['peak_mib'] / 1024:.2f} GiB" if row["peak_mib"] else "memory not measured"
    return (
        "{setting:>16} {attention:>5}  {clips_per_row} x {questions_per_clip:>2}  {tokens:>6} tokens  "
        "{row_s:7.4f} s  {questions_per_s:8.2f} questions/s  ".format(**row)
        + ratio
        + f"{row['tflops']:.1f} TFLOP/s ({row['mfu']:.0%}), {peak}"
    )
