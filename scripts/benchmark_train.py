"""Training steps on the same questions in three ways, forward and backward through towers, projector and decoder.

hf     one sample a question, padded batches, the model's own loss over logits of every position: HF's Trainer
plain  the same batches, logits only at the positions that have a label: the fastest existing trainer
ours   the questions about a clip behind one copy of it, in packed rows

LoRA (r 8) on the decoder. Nothing is loaded in the measured steps. Each way has its fastest size of batch or row.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from benchmark_questions import QuestionMaker, Questions, num_labelled, num_tokens
from measure import Step, alternate, count_flops, machine, matmul_speed, peak_bytes, seconds, spread
from new_model import random_model

from data.video_llava import measure_visual_tokens
from train.adapters import add_adapter
from train.attention import SHARED_PREFIX
from train.loss import labelled_positions, token_loss

SIZES = (1, 2, 4)  # a batch has so many samples, a row has room for so many of the longest groups
NUM_PROBED = 4  # questions that find the fastest size, each with a clip of its own
NUM_FRAMES = 8
NUM_MIXED = 4  # clips, pictures and texts each of the mixed case, and its samples in a padded batch


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=("tiny", "60m", "7b"), help="default: 7b on CUDA, 60m on the CPU")
    parser.add_argument("--questions", type=int, nargs="*", default=[1, 8, 25], help="about a clip, a case each")
    parser.add_argument("--mixed", action="store_true", help="also clips, pictures and texts with one question each")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> list[dict]:
    """Measure and print case by case; returns the rows of `--json`."""
    torch.set_num_threads(arguments.threads)
    shape = arguments.shape or ("7b" if torch.cuda.is_available() else "60m")
    with tempfile.TemporaryDirectory() as folder:
        bench = TrainBenchmark(shape, Path(folder), arguments.repetitions, arguments.seed)
        print(bench.heading())
        rows = []
        for number in arguments.questions:
            rows.append(bench.questions_per_clip(number))
            print(describe(rows[-1]), flush=True)
        if arguments.mixed:
            rows.append(bench.mixed())
            print(describe(rows[-1]), flush=True)
    return rows


class TrainBenchmark:
    """A random model with its adapter, and the three ways to take a step on some questions."""

    def __init__(self, shape: str, folder: Path, repetitions: int, seed: int):
        self.repetitions = repetitions
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        with self.device:
            self.base, processor = random_model(shape, dtype, seed)
        # Random lora_B: at zero, as training starts, no gradient would reach lora_A.
        self.model = add_adapter(
            self.base.requires_grad_(False), r=8, alpha=16, dropout=0.0, init_lora_weights=False
        ).train()
        self.base.config.use_cache = False  # as Trainer sets it
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.gradients: dict[str, list[torch.Tensor]] = {}
        self.maker = QuestionMaker(processor, measure_visual_tokens(processor, NUM_FRAMES), folder, seed)
        self.matmul_speed = matmul_speed(self.device, dtype, 8192 if self.device.type == "cuda" else 2048)
        self.about = {
            "shape": shape,
            "dtype": str(dtype).removeprefix("torch."),
            "machine": machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "matmul_gflops": self.matmul_speed / 1e9,
        }
        self.sizes = self._fastest_sizes(self.maker.about_clips(NUM_PROBED, 1))

    def step(self, way: str, questions: Questions, size: int) -> Step:
        """One optimizer step's gradients, which it leaves in `self.gradients[way]`; takes no optimizer step."""
        attention, loss_of, make_batches = WAYS[way]
        batches = [self._on_device(batch) for batch in make_batches(questions, size)]
        num_items = num_labelled(batches)

        def run_step() -> None:
            self.base.set_attn_implementation({"text_config": attention})
            self.model.zero_grad()
            for batch in batches:
                loss_of(self.model, dict(batch), num_items).backward()
            self.gradients[way] = [parameter.grad for parameter in self.trained]

        return run_step

    def _on_device(self, batch: dict) -> dict:
        return {
            name: value.to(self.device) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
            if name != "counts"
        }

    def _fastest_sizes(self, questions: Questions) -> dict[str, int]:
        """Of each way, after a step to warm up."""
        fastest = {}
        for way in WAYS:
            self.step(way, questions.first(1), 1)()
            times = {size: seconds(self.step(way, questions, size)) for size in SIZES}
            fastest[way] = min(times, key=times.get)
        return fastest

    def questions_per_clip(self, number: int) -> dict:
        """At least NUM_PROBED questions, `number` about each clip."""
        questions = self.maker.about_clips(-(-NUM_PROBED // number), number)
        return {"case": "train", "questions_per_clip": number, **self._compare(questions, self.sizes)}

    def mixed(self) -> dict:
        """Padded batches of one size for all, whatever meets in them; `unpadded_ratio` is against samples alone."""
        questions = self.maker.mixed(NUM_MIXED)
        sizes = {"hf": NUM_MIXED, "plain": NUM_MIXED, "ours": NUM_MIXED}
        row = self._compare(questions, sizes)
        alone = seconds(self.step("plain", questions, 1)) / len(questions.samples)
        return {"case": "mixed", "questions_per_clip": 1, **row, "unpadded_ratio": alone / row["ours_s"]}

    def _compare(self, questions: Questions, sizes: dict[str, int]) -> dict:
        number = len(questions.samples)
        steps = {way: self.step(way, questions, sizes[way]) for way in WAYS}
        times = alternate(steps, self.repetitions)
        gradient_difference = self._gradient_difference()  # of these steps; the measurements below take others
        times = {way: [time / number for time in measured] for way, measured in times.items()}
        each = {way: median(measured) for way, measured in times.items()}
        tokens = {way: num_tokens(WAYS[way][2](questions, sizes[way])) / number for way in ("ours", "plain")}
        ratio, token_limit = each["plain"] / each["ours"], tokens["plain"] / tokens["ours"]
        return {
            **{f"{way}_s": each[way] for way in WAYS},
            "ratio": ratio,
            "hf_ratio": each["hf"] / each["ours"],
            **{f"tokens_{way}": tokens[way] for way in tokens},
            "token_limit": token_limit,
            "share_of_limit": ratio / token_limit,
            **self._memory(questions, sizes),
            "matmul_share": count_flops(steps["ours"]) / number / each["ours"] / self.matmul_speed,
            "gradient_difference": gradient_difference,
            "spread": {
                **{f"{way}_s": spread(measured) for way, measured in times.items()},
                "ratio": spread([plain / ours for plain, ours in zip(times["plain"], times["ours"], strict=True)]),
            },
            "sizes": sizes,
            **self.about,
        }

    def _memory(self, questions: Questions, sizes: dict[str, int]) -> dict:
        """Peaks with the weights in them, without the inputs.

        memory_ratio: the same questions, up to NUM_PROBED, in one forward and backward of either way (with more of
        them about a clip it only falls). memory_ratio_accumulated: all of the case's questions in a step, where
        the plain way holds one batch of its fastest size at a time.
        """
        number = min(NUM_PROBED, len(questions.samples))
        together = {way: self._peak_mib(way, questions.first(number), number) for way in ("ours", "plain")}
        ours = self._peak_mib("ours", questions, sizes["ours"])
        plain = self._peak_mib("plain", questions.first(sizes["plain"]), sizes["plain"])
        return {
            "memory_ratio": together["ours"] / together["plain"],
            "memory_questions": number,
            **{f"{way}_peak_mib": peak for way, peak in together.items()},
            "memory_ratio_accumulated": ours / plain,
            "ours_peak_mib_accumulated": ours,
            "plain_peak_mib_accumulated": plain,
        }

    def _peak_mib(self, way: str, questions: Questions, size: int) -> float:
        step = self.step(way, questions, size)
        self.model.zero_grad()
        self.gradients.clear()
        weights = sum(parameter.nbytes for parameter in self.model.parameters())
        return (weights + peak_bytes(step)) / 2**20

    def _gradient_difference(self) -> float:
        """|ours - plain| / |plain| over all trained parameters, of the steps taken last."""
        ours, plain = (torch.cat([g.double().flatten() for g in self.gradients[way]]) for way in ("ours", "plain"))
        return float((ours - plain).norm() / plain.norm())

    def heading(self) -> str:
        about = self.about
        return (
            f"{about['machine']}, {about['threads']} threads, torch {about['torch']}, {about['dtype']}, "
            f"{about['matmul_gflops']:,.0f} GFLOP/s in a matrix product; shape {about['shape']}, fastest sizes "
            f"{', '.join(f'{way} {size}' for way, size in self.sizes.items())}\n{HEADING}"
        )


def full_logits_loss(model, batch: dict, num_items: int) -> torch.Tensor:
    return model(**batch, num_items_in_batch=num_items).loss


def labelled_logits_loss(model, batch: dict, num_items: int) -> torch.Tensor:
    positions, targets = labelled_positions(batch.pop("labels"))
    return token_loss(model(**batch, logits_to_keep=positions).logits, targets, num_items)


# Of the decoder's attention, the loss of a batch, and the batches of some questions.
WAYS: dict[str, tuple[str, Callable, Callable]] = {
    "hf": ("sdpa", full_logits_loss, Questions.batches),
    "plain": ("sdpa", labelled_logits_loss, Questions.batches),
    "ours": (SHARED_PREFIX, labelled_logits_loss, Questions.rows),
}
COLUMNS = {
    "case": "{case} {questions_per_clip}",
    "tokens/question": "{tokens_plain:.0f} -> {tokens_ours:.0f}",
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
HEADING = " | ".join(f"{name:>15}" for name in COLUMNS)


def describe(row: dict) -> str:
    """The row of the table, and below it what does not fit."""
    cells = " | ".join(f"{cell.format(**row):>15}" for cell in COLUMNS.values())
    low, high = row["spread"]["ratio"]
    return (
        f"{cells}\n  to plain {low:.2f} to {high:.2f}x; peak with {row['memory_questions']} questions at once: ours "
        f"{row['ours_peak_mib']:,.0f} MiB, plain {row['plain_peak_mib']:,.0f} MiB; a step of all: ours "
        f"{row['ours_peak_mib_accumulated']:,.0f} MiB, plain {row['plain_peak_mib_accumulated']:,.0f} MiB"
        + (f"; to plain without padding {row['unpadded_ratio']:.2f}x" if "unpadded_ratio" in row else "")
    )
