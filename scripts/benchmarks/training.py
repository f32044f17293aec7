"""Training on the same questions in several ways, forward and backward through towers, projector and decoder.

hf     one sample a question, padded batches, the model's own loss over logits of every position: HF's Trainer
plain  the same batches, logits only at the positions that have a label: the fastest existing trainer
ours   the questions about a clip behind one copy of it, in packed rows, with `attn_implementation: sdpa`
flash  the same rows with `attn_implementation: flash`

LoRA (r 8) on the decoder. Nothing is loaded in the measured passes. Each way has its fastest size of batch or row, of
as many tokens as 4 samples of 8 frames have at most.
A sample by itself costs the same however many there are of its clip: each repetition of the padded ways takes its
share of the samples, all of them over all repetitions; ours takes its share of the rows, or the only one again.
"""

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from string import Formatter

import torch

from data.processor import measure_visual_tokens
from data.video_llava import NUM_FRAMES
from scripts.benchmarks.measure import (
    MATMUL_SIZES,
    MIB,
    Figures,
    count_flops,
    heading_of,
    line_of,
    machine,
    matmul_speed,
    peak_bytes,
    seconds,
    spread,
)
from scripts.benchmarks.questions import QuestionMaker, Questions
from scripts.benchmarks.ways import WAYS, Passes
from train.model.adapters import add_adapter
from train.model.build import random_model
from train.model.last_layer import run_last_layer_on_suffixes

SIZES = (1, 2, 4)  # a batch has so many samples, a row has room for so many of the longest groups
MAX_FRAMES = max(SIZES) * NUM_FRAMES  # in a batch or row of more than one
NUM_QUESTIONS = 6  # at least, in a case
NUM_MIXED = 4  # clips, pictures and texts each of the mixed case, and the samples of its padded batches
ALL = 2**20  # samples in a batch: more than a case has


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=("tiny", "60m", "7b"), help="default: 7b on CUDA, 60m on the CPU")
    parser.add_argument("--questions", type=int, nargs="*", default=[1, 8, 25], help="about a clip, a case each")
    parser.add_argument("--frames", type=int, nargs="+", default=[NUM_FRAMES], help="of a clip, cases for each")
    parser.add_argument("--against", choices=[way for way in WAYS if way != "ours"], nargs="+",
                        default=["hf", "plain"], help="the ways beside ours")  # fmt: skip
    parser.add_argument("--mixed", action="store_true", help="also clips, pictures and texts with one question each")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> list[Figures]:
    """Measure and print case by case; return the figures of each."""
    torch.set_num_threads(arguments.threads)
    shape = arguments.shape or ("7b" if torch.cuda.is_available() else "60m")
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        benchmark = TrainBenchmark(shape, Path(folder), arguments.against, arguments.repetitions, arguments.seed)
        for frames in arguments.frames:
            print(benchmark.show(frames), flush=True)
            cases = [partial(benchmark.questions_per_clip, number) for number in arguments.questions]
            for number, case in enumerate([*cases, *[benchmark.mixed] * arguments.mixed]):
                figures.append(case())
                if number == 0:
                    print(heading_of(columns_of(figures[-1])))
                print(describe(figures[-1]), flush=True)
    return figures


class TrainBenchmark:
    """A random model with its adapter, and the cases that are measured with it.

    against: the ways beside ours. `show` says how many frames a clip has, and finds the sizes for that.
    """

    def __init__(self, shape: str, folder: Path, against: Sequence[str], repetitions: int, seed: int):
        on_cuda = torch.cuda.is_available()
        dtype, device = (torch.bfloat16, "cuda") if on_cuda else (torch.float32, "cpu")
        with torch.device(device):
            base, self.processor = random_model(shape, dtype, seed)
            # Random lora_B: at zero, as training starts, no gradient would reach lora_A.
            self.model = add_adapter(
                base.requires_grad_(False), r=8, alpha=16, dropout=0.0, init_lora_weights=False
            ).train()
        run_last_layer_on_suffixes(self.model)  # without effect on the padded batches
        base.config.use_cache = False  # as Trainer sets it
        self.ways = [way for way in WAYS if way == "ours" or way in against]
        self.folder, self.repetitions, self.seed = folder, repetitions, seed
        self.matmul_speed = matmul_speed(device, dtype, MATMUL_SIZES[device])
        self.about = {
            "shape": shape,
            "dtype": str(dtype).removeprefix("torch."),
            "machine": machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "matmul_gflops": self.matmul_speed / 1e9,
        }

    def show(self, frames: int) -> str:
        """Take clips of so many frames from now on; return what heads their table."""
        self.frames = frames
        self.maker = QuestionMaker(
            self.processor, measure_visual_tokens(self.processor, frames), self.folder, self.seed
        )
        self.sizes = self._fastest_sizes([size for size in SIZES if size == 1 or size * frames <= MAX_FRAMES])
        sizes = ", ".join(f"{way} {size}" for way, size in self.sizes.items())
        return (
            "{machine}, {threads} threads, torch {torch}, {dtype}, {matmul_gflops:,.0f} GFLOP/s in a matrix product; "
            "shape {shape}, ".format(**self.about)
            + f"{frames} frames a clip, fastest sizes {sizes}"
        )

    def passes(self, way: str, questions: Questions, size: int) -> Passes:
        return Passes(self.model, WAYS[way], questions, size)

    def _fastest_sizes(self, sizes: Sequence[int]) -> dict[str, int]:
        """Find the size with the least seconds a question for each way, after a pass to warm up."""
        self.num_probed = max(sizes)  # questions, each with a clip of its own
        questions, fastest = self.maker.about_clips(self.num_probed, 1), {}
        for way in self.ways:
            self.passes(way, questions.first(1), 1).run()
            if way == "flash":  # the same rows
                fastest[way] = fastest["ours"]
            elif len(sizes) == 1:
                fastest[way] = sizes[0]
            else:
                times = {size: seconds(self.passes(way, questions.first(size), size).run) / size for size in sizes}
                fastest[way] = min(times, key=times.__getitem__)
        return fastest

    def questions_per_clip(self, number: int) -> Figures:
        """Compare the ways on clips with `number` questions each."""
        questions = self.maker.about_clips(-(-NUM_QUESTIONS // number), number)
        figures = self._compare(questions, self.sizes, shares=self.repetitions)
        return {"case": "train", "questions_per_clip": number, **figures}

    def mixed(self) -> Figures:
        """Compare the ways on clips, pictures and texts, padded in batches of NUM_MIXED samples as they come.

        Each repetition takes all of them, because they cost unequally. `unpadded_ratio` compares with samples one at a
        time, which pads nothing.
        """
        questions = self.maker.mixed(NUM_MIXED)
        figures = self._compare(questions, {**self.sizes, "hf": NUM_MIXED, "plain": NUM_MIXED}, shares=1)
        if "plain" in self.ways:
            figures["unpadded_ratio"] = self.passes("plain", questions, 1).timed(0, 1) / figures["ours_s"]
        return {"case": "mixed", "questions_per_clip": 1, **figures}

    def _compare(self, questions: Questions, sizes: dict[str, int], shares: int) -> Figures:
        """Measure all ways in turns, so that a slow minute of the machine meets them all.

        Seconds are those of a question, medians; `spread` has [min, max]. Ratios are to ours (`ratio` is plain's),
        memory is ours over plain, and flash's over ours.
        """
        passes = {way: self.passes(way, questions, sizes[way]) for way in self.ways}
        times: dict[str, list[float]] = {f"{way}_s": [] for way in self.ways}
        for repetition in range(self.repetitions):
            for way in self.ways:
                times[f"{way}_s"].append(passes[way].timed(repetition % shares, shares))
        each = {name: median(values) for name, values in times.items()}
        num_questions = len(questions.samples)
        flops = count_flops(passes["ours"].run) / num_questions
        figures: Figures = {"frames": self.frames, **each, **self._memory(questions, sizes)}
        for way in self.ways:
            figures[f"tokens_{way}"] = passes[way].num_tokens / num_questions
            if way != "ours":
                of_way = "" if way == "plain" else f"{way}_"
                times[f"{of_way}ratio"] = [
                    theirs / ours for theirs, ours in zip(times[f"{way}_s"], times["ours_s"], strict=True)
                ]
                figures[f"{of_way}ratio"] = each[f"{way}_s"] / each["ours_s"]
                figures[f"{of_way}gradient_difference"] = difference(passes["ours"].gradients, passes[way].gradients)
        if "plain" in self.ways:
            figures["token_limit"] = passes["plain"].num_tokens / passes["ours"].num_tokens
            figures["share_of_limit"] = figures["ratio"] / figures["token_limit"]
        return {
            **figures,
            "matmul_share": flops / each["ours_s"] / self.matmul_speed,
            "spread": spread(**times),
            "sizes": sizes,
            **self.about,
        }

    def _memory(self, questions: Questions, sizes: dict[str, int]) -> Figures:
        """Measure peaks in MiB, weights included, inputs not.

        memory_ratio: the same questions, `num_probed` of them, in one forward and backward of ours and plain; the more
        there are about a clip, the lower it is. memory_ratio_accumulated: all questions of the case, of which the
        plain way holds one batch of its fastest size at a time. flash_memory_ratio: all questions, flash's over ours.
        """
        ways = [way for way in self.ways if way != "hf"]
        first, batch = questions.first(self.num_probed), questions.first(sizes.get("plain", 1))
        together = {way: self._peak_mib(way, first, self.num_probed) for way in ways if way != "flash"}
        apart = {
            way: self._peak_mib(way, *((batch, ALL) if way == "plain" else (questions, sizes[way]))) for way in ways
        }
        figures: Figures = {
            "memory_questions": len(first.samples),
            **{f"{way}_peak_mib": peak for way, peak in together.items()},
            **{f"{way}_peak_mib_accumulated": peak for way, peak in apart.items()},
        }
        if "plain" in ways:
            figures["memory_ratio"] = together["ours"] / together["plain"]
            figures["memory_ratio_accumulated"] = apart["ours"] / apart["plain"]
        if "flash" in ways:
            figures["flash_memory_ratio"] = apart["flash"] / apart["ours"]
        return figures

    def _peak_mib(self, way: str, questions: Questions, size: int) -> float:
        passes = self.passes(way, questions, size)
        self.model.zero_grad()
        weights = sum(parameter.nbytes for parameter in self.model.parameters())
        return (weights + peak_bytes(passes.run)) / MIB


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return |ours - theirs| / |theirs|."""
    return float((ours - theirs).norm() / theirs.norm())


COLUMNS = {
    "case": "{case} {questions_per_clip}",
    "tokens": "{tokens_ours:.0f}",
    "of plain": "{tokens_plain:.0f}",
    "hf s": "{hf_s:.3f}",
    "plain s": "{plain_s:.3f}",
    "ours s": "{ours_s:.3f}",
    "flash s": "{flash_s:.3f}",
    "to hf": "{hf_ratio:.2f}x",
    "to plain": "{ratio:.2f}x",
    "flash/ours": "{flash_ratio:.2f}x",
    "limit": "{token_limit:.2f}x",
    "of limit": "{share_of_limit:.0%}",
    "memory": "{memory_ratio:.0%}",
    "flash mem": "{flash_memory_ratio:.0%}",
    "of matmul": "{matmul_share:.0%}",
    "gradients": "{gradient_difference:.1e}",
    "flash grad": "{flash_gradient_difference:.1e}",
}


def columns_of(figures: Figures) -> dict[str, str]:
    """Return the columns for the ways that were measured."""
    return {
        name: cell
        for name, cell in COLUMNS.items()
        if all(field in figures for _, field, _, _ in Formatter().parse(cell) if field)
    }


def describe(figures: Figures) -> str:
    """Return a line of the table, and notes below it."""
    notes = []
    for way, name in (("plain", "ratio"), ("flash", "flash_ratio")):
        if name in figures:
            low, high = figures["spread"][name]
            notes.append(f"to {way} {low:.2f}x to {high:.2f}x")
    for label, end in (("with {memory_questions} questions at once", ""), ("all, accumulated", "_accumulated")):
        peaks = [f"{way} {figures[key]:,.0f}" for way in WAYS if (key := f"{way}_peak_mib{end}") in figures]
        notes.append(f"peak MiB {label.format(**figures)}: {', '.join(peaks)}")
    if "unpadded_ratio" in figures:
        notes.append("to plain without padding {unpadded_ratio:.2f}x".format(**figures))
    return line_of(columns_of(figures), figures) + "\n  " + "; ".join(notes)
