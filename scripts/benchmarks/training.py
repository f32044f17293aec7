"""Training on the same questions in three ways, forward and backward through towers, projector and decoder.

hf     one sample a question, padded batches, the model's own loss over logits of every position: HF's Trainer
plain  the same batches, logits only at the positions that have a label: the fastest existing trainer
ours   the questions about a clip behind one copy of it, in packed rows

LoRA (r 8) on the decoder. Nothing is loaded in the measured passes. Each way has its fastest size of batch or row.
A sample by itself costs the same however many there are of its clip: each repetition of the padded ways takes its
share of the samples, all of them over all repetitions; ours takes its share of the rows, or the only one again.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

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
NUM_PROBED = max(SIZES)  # questions that find the fastest size, each with a clip of its own
NUM_QUESTIONS = 6  # at least, in a case
NUM_MIXED = 4  # clips, pictures and texts each of the mixed case, and the samples of its padded batches
ALL = 2**20  # samples in a batch: more than a case has


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=("tiny", "60m", "7b"), help="default: 7b on CUDA, 60m on the CPU")
    parser.add_argument("--questions", type=int, nargs="*", default=[1, 8, 25], help="about a clip, a case each")
    parser.add_argument("--mixed", action="store_true", help="also clips, pictures and texts with one question each")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> list[Figures]:
    """Measure and print case by case; return the figures of each."""
    torch.set_num_threads(arguments.threads)
    shape = arguments.shape or ("7b" if torch.cuda.is_available() else "60m")
    with tempfile.TemporaryDirectory() as folder:
        benchmark = TrainBenchmark(shape, Path(folder), arguments.repetitions, arguments.seed)
        print(benchmark.heading(), flush=True)
        figures = []
        for number in arguments.questions:
            figures.append(benchmark.questions_per_clip(number))
            print(describe(figures[-1]), flush=True)
        if arguments.mixed:
            figures.append(benchmark.mixed())
            print(describe(figures[-1]), flush=True)
    return figures


class TrainBenchmark:
    """A random model with its adapter, and the cases that are measured with it."""

    def __init__(self, shape: str, folder: Path, repetitions: int, seed: int):
        on_cuda = torch.cuda.is_available()
        dtype, device = (torch.bfloat16, "cuda") if on_cuda else (torch.float32, "cpu")
        with torch.device(device):
            base, processor = random_model(shape, dtype, seed)
            # Random lora_B: at zero, as training starts, no gradient would reach lora_A.
            self.model = add_adapter(
                base.requires_grad_(False), r=8, alpha=16, dropout=0.0, init_lora_weights=False
            ).train()
        run_last_layer_on_suffixes(self.model)  # without effect on the padded batches
        base.config.use_cache = False  # as Trainer sets it
        self.repetitions = repetitions
        self.maker = QuestionMaker(processor, measure_visual_tokens(processor, NUM_FRAMES), folder, seed)
        self.matmul_speed = matmul_speed(device, dtype, MATMUL_SIZES[device])
        self.about = {
            "shape": shape,
            "dtype": str(dtype).removeprefix("torch."),
            "machine": machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "matmul_gflops": self.matmul_speed / 1e9,
        }
        self.sizes = self._fastest_sizes()

    def passes(self, way: str, questions: Questions, size: int) -> Passes:
        return Passes(self.model, WAYS[way], questions, size)

    def _fastest_sizes(self) -> dict[str, int]:
        """Find the size with the least seconds a question for each way, after a pass to warm up."""
        questions, fastest = self.maker.about_clips(NUM_PROBED, 1), {}
        for way in WAYS:
            self.passes(way, questions.first(1), 1).run()
            times = {size: seconds(self.passes(way, questions.first(size), size).run) / size for size in SIZES}
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
        alone = self.passes("plain", questions, 1).timed(0, 1)
        return {"case": "mixed", "questions_per_clip": 1, **figures, "unpadded_ratio": alone / figures["ours_s"]}

    def _compare(self, questions: Questions, sizes: dict[str, int], shares: int) -> Figures:
        """Measure all ways in turns, so that a slow minute of the machine meets them all.

        Seconds are those of a question, medians; `spread` has [min, max]. Ratios are to ours, memory is ours over
        plain.
        """
        passes = {way: self.passes(way, questions, sizes[way]) for way in WAYS}
        times: dict[str, list[float]] = {f"{way}_s": [] for way in WAYS}
        for repetition in range(self.repetitions):
            for way in WAYS:
                times[f"{way}_s"].append(passes[way].timed(repetition % shares, shares))
        each = {name: median(values) for name, values in times.items()}
        times["ratio"] = [plain / ours for plain, ours in zip(times["plain_s"], times["ours_s"], strict=True)]
        ratio, token_limit = each["plain_s"] / each["ours_s"], passes["plain"].num_tokens / passes["ours"].num_tokens
        num_questions = len(questions.samples)
        flops = count_flops(passes["ours"].run) / num_questions
        return {
            **each,
            "ratio": ratio,
            "hf_ratio": each["hf_s"] / each["ours_s"],
            **{f"tokens_{way}": passes[way].num_tokens / num_questions for way in ("ours", "plain")},
            "token_limit": token_limit,
            "share_of_limit": ratio / token_limit,
            **self._memory(questions, sizes),
            "matmul_share": flops / each["ours_s"] / self.matmul_speed,
            "gradient_difference": difference(passes["ours"].gradients, passes["plain"].gradients),
            "hf_gradient_difference": difference(passes["ours"].gradients, passes["hf"].gradients),
            "spread": spread(**times),
            "sizes": sizes,
            **self.about,
        }

    def _memory(self, questions: Questions, sizes: dict[str, int]) -> Figures:
        """Measure peaks in MiB, weights included, inputs not.

        memory_ratio: the same questions, NUM_PROBED of them, in one forward and backward of either way; the more
        there are about a clip, the lower it is. memory_ratio_accumulated: all questions of the case, of which the
        plain way holds one batch of its fastest size at a time.
        """
        first = questions.first(NUM_PROBED)
        together = {way: self._peak_mib(way, first, NUM_PROBED) for way in ("ours", "plain")}
        batch = questions.first(sizes["plain"])
        apart = {"ours": self._peak_mib("ours", questions, sizes["ours"]), "plain": self._peak_mib("plain", batch, ALL)}
        return {
            "memory_ratio": together["ours"] / together["plain"],
            "memory_questions": len(first.samples),
            **{f"{way}_peak_mib": peak for way, peak in together.items()},
            "memory_ratio_accumulated": apart["ours"] / apart["plain"],
            **{f"{way}_peak_mib_accumulated": peak for way, peak in apart.items()},
        }

    def _peak_mib(self, way: str, questions: Questions, size: int) -> float:
        passes = self.passes(way, questions, size)
        self.model.zero_grad()
        weights = sum(parameter.nbytes for parameter in self.model.parameters())
        return (weights + peak_bytes(passes.run)) / MIB

    def heading(self) -> str:
        sizes = ", ".join(f"{way} {size}" for way, size in self.sizes.items())
        return (
            "{machine}, {threads} threads, torch {torch}, {dtype}, {matmul_gflops:,.0f} GFLOP/s in a matrix product; "
            "shape {shape}, fastest sizes ".format(**self.about)
            + f"{sizes}\n{heading_of(COLUMNS)}"
        )


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return |ours - theirs| / |theirs|."""
    return float((ours - theirs).norm() / theirs.norm())


COLUMNS = {
    "case": "{case} {questions_per_clip}",
    "tokens a question": "{tokens_plain:.0f} -> {tokens_ours:.0f}",
    "hf s": "{hf_s:.3f}",
    "plain s": "{plain_s:.3f}",
    "ours s": "{ours_s:.3f}",
    "to hf": "{hf_ratio:.2f}x",
    "to plain": "{ratio:.2f}x",
    "limit": "{token_limit:.2f}x",
    "of limit": "{share_of_limit:.0%}",
    "memory": "{memory_ratio:.0%}",
    "of matmul": "{matmul_share:.0%}",
    "gradients": "{gradient_difference:.1e}",
}


def describe(figures: Figures) -> str:
    """Return a line of the table, and notes below it."""
    low, high = figures["spread"]["ratio"]
    notes = [
        f"to plain {low:.2f}x to {high:.2f}x",
        "peak MiB with {memory_questions} questions at once: ours {ours_peak_mib:,.0f}, plain {plain_peak_mib:,.0f}",
        "all, accumulated: ours {ours_peak_mib_accumulated:,.0f}, plain {plain_peak_mib_accumulated:,.0f}",
    ]
    if "unpadded_ratio" in figures:
        notes.append("to plain without padding {unpadded_ratio:.2f}x")
    return line_of(COLUMNS, figures) + "\n  " + "; ".join(notes).format(**figures)
