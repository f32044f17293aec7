"""Questions about the same clips, answered in three ways: greedy, all answers of one length.

hf      one question after another, by `generate`, as transformers documents it
padded  batches of 8 questions, padded on the left, by `generate`
ours    the questions about a clip behind one copy of it, decoded together

Frames are decoded before anything is measured; that they become pixels is in it. A question by itself costs the same
however many there are of its clip: each repetition of the other ways takes some of the questions, ours takes all.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from transformers import GenerationConfig, VideoLlavaForConditionalGeneration

from data.batches.collator import pad
from data.batches.pixels import PixelLoader
from data.decoding.decode import decode
from data.media.reference import Media
from data.processor import measure_visual_tokens
from data.tokens.encoding import expand, placeholder_ids
from data.video_llava import DECODER, NUM_FRAMES
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
from scripts.benchmarks.questions import QuestionMaker
from train.answering.generation import AnswerJob, answer_groups
from train.answering.grouping import Encoded, group_prompts
from train.answering.one_by_one import generate_alone
from train.model.attention import SHARED_PREFIX
from train.model.build import random_model

BATCH_SIZE = 8  # questions of a padded batch; ours has room for the keys and values of as many
LONG = 16  # tokens; a repetition of longer answers asks fewer questions, or it would take many minutes
NUM_ALONE = 4  # questions that a repetition asks one by one; half of them where answers are long
STREAM_BYTES = 2**28  # that a measurement of the memory's speed reads: more than caches hold
Said = Iterator[tuple[int, list[int]]]  # a prompt's number and its answer, as they come


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=("tiny", "60m", "7b"), help="default: 7b on CUDA, 60m on the CPU")
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 8, 25], help="about a clip, a case each")
    parser.add_argument("--answer-tokens", type=int, nargs="+", default=[4, 64], help="of every answer, a case each")
    parser.add_argument("--clips", type=int, help="that a repetition asks about; default: 2, 1 for long answers")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> list[Figures]:
    """Measure and print case by case; return the figures of each."""
    torch.set_num_threads(arguments.threads)
    shape = arguments.shape or ("7b" if torch.cuda.is_available() else "60m")
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        benchmark = AnswerBenchmark(shape, Path(folder), arguments.repetitions, arguments.clips, arguments.seed)
        print(benchmark.heading(), flush=True)
        for num_new in arguments.answer_tokens:
            for number in arguments.questions:
                figures.append(benchmark.case(number, num_new))
                print(describe(figures[-1]), flush=True)
    return figures


@dataclass
class Answers:
    """The ways to answer `prompts`, each of `num_new` tokens; `frames` of clips are those that were decoded before."""

    model: VideoLlavaForConditionalGeneration
    load_pixels: PixelLoader
    prompts: Sequence[Encoded]
    num_new: int
    said: dict[str, dict[int, list[int]]] = field(default_factory=dict)

    def hf(self, numbers: Sequence[int]) -> Said:
        for number in numbers:
            ids, media = self.prompts[number]
            yield number, generate_alone(self.model, ids, self.load_pixels(media), self.num_new, seed=0)

    @torch.inference_mode()
    def padded(self, numbers: Sequence[int]) -> Said:
        generate: Any = self.model.generate
        for start in range(0, len(numbers), BATCH_SIZE):
            chosen = numbers[start : start + BATCH_SIZE]
            ids = [self.prompts[number][0] for number in chosen]
            pixels = self.load_pixels([item for number in chosen for item in self.prompts[number][1]])
            inputs = {
                "input_ids": pad(ids, 0, side="left"),
                "attention_mask": pad([np.ones_like(each) for each in ids], 0, side="left"),
                **{name: value.to(self.model.dtype) for name, value in pixels.items()},
            }
            moved = {name: value.to(self.model.device) for name, value in inputs.items()}
            said = generate(**moved, max_new_tokens=self.num_new)[:, inputs["input_ids"].shape[1] :]
            yield from zip(chosen, said.tolist(), strict=True)

    def ours(self, numbers: Sequence[int]) -> Said:
        prompts = [self.prompts[number] for number in numbers]
        visual_ids = list(placeholder_ids(self.load_pixels.processor.tokenizer).values())
        room = BATCH_SIZE * (max(len(ids) for ids, _ in prompts) + self.num_new)
        groups = group_prompts(prompts, visual_ids)
        for some in answer_groups(self.model, AnswerJob(groups, self.load_pixels, self.num_new, room, seed=0)):
            yield from ((numbers[at], cast("list[int]", said)) for at, said in some.items())

    def timed(self, way: str, numbers: Sequence[int]) -> tuple[float, float]:
        """Return the seconds to the first answer and those of a question."""
        self.model.set_attn_implementation({"text_config": SHARED_PREFIX if way == "ours" else "sdpa"})
        start, first, said = time.perf_counter(), 0.0, self.said.setdefault(way, {})
        for number, ids in getattr(self, way)(numbers):
            first = first or time.perf_counter() - start
            said[number] = ids
        return first, (time.perf_counter() - start) / len(numbers)


class AnswerBenchmark:
    """A random model and the cases that are measured with it."""

    def __init__(self, shape: str, folder: Path, repetitions: int, num_clips: int | None, seed: int):
        device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
        with torch.device(device):
            self.model, processor = random_model(shape, dtype, seed)
        self.model.eval()
        self.model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)  # no token ends an answer
        self.repetitions, self.num_clips = repetitions, num_clips
        self.maker = QuestionMaker(processor, measure_visual_tokens(processor, NUM_FRAMES), folder, seed)
        self.matmul_speed = matmul_speed(device, dtype, MATMUL_SIZES[device])
        self.read_speed = read_speed(device)
        decoder = self.model.get_submodule(f"model.{DECODER}")
        self.weights = [*decoder.parameters(), *self.model.lm_head.parameters()]
        self.about = {
            "shape": shape,
            "dtype": str(dtype).removeprefix("torch."),
            "machine": machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "matmul_gflops": self.matmul_speed / 1e9,
            "memory_gb_s": self.read_speed / 1e9,
        }

    def answers(self, num_clips: int, number: int, num_new: int) -> Answers:
        """Ask `number` questions about each of some clips."""
        questions = self.maker.about_clips(num_clips, number)
        processor, visual_tokens = questions.processor, questions.visual_tokens
        frames = {item: decode(item, NUM_FRAMES) for sample in questions.samples for item in sample.media}
        load = PixelLoader(processor, NUM_FRAMES, decode=lambda item, _: frames[item])
        prompts: list[tuple[np.ndarray, Sequence[Media]]] = []
        for sample in questions.samples:
            ids = sample.input_ids[: sample.trained[0][0]]
            prompts.append((expand(ids, ids, processor.tokenizer, visual_tokens)[0], sample.media))
        return Answers(self.model, load, prompts, num_new)

    def case(self, number: int, num_new: int) -> Figures:
        """Measure all ways in turns, so that a slow minute of the machine meets them all.

        Seconds are those of a question, medians. `ratio` is the better of the other ways over ours.
        """
        is_long = num_new > LONG
        num_clips = self.num_clips or (1 if is_long else 2)
        num_alone = NUM_ALONE // 2 if is_long else NUM_ALONE
        answers = self.answers(num_clips, number, num_new)
        every = range(len(answers.prompts))
        times: dict[str, list[float]] = {}
        for turn in range(self.repetitions):
            for way, many in (("hf", num_alone), ("padded", BATCH_SIZE), ("ours", len(every))):
                first, each = answers.timed(way, rotated(every, turn * many)[:many])
                times.setdefault(f"{way}_first_s", []).append(first)
                times.setdefault(f"{way}_s", []).append(each)
        plain = min(("hf", "padded"), key=lambda way: median(times[f"{way}_s"]))
        times["ratio"] = [a / b for a, b in zip(times[f"{plain}_s"], times["ours_s"], strict=True)]
        each = {name: median(values) for name, values in times.items()}
        ratio = each[f"{plain}_s"] / each["ours_s"]
        return {
            "case": "eval",
            "questions_per_clip": number,
            "answer_tokens": num_new,
            "clips": num_clips,
            **each,
            "plain_s": each[f"{plain}_s"],
            "plain": plain,
            "ratio": ratio,
            "hf_ratio": each["hf_s"] / each["ours_s"],
            "questions_per_s": 1 / each["ours_s"],
            **compared_answers(answers.said),
            **self._memory(number, num_new),
            **self._limit(answers, each["ours_s"]),
            "spread": spread(**times),
            **self.about,
        }

    def _memory(self, number: int, num_new: int) -> Figures:
        """Measure peaks in MiB for one clip, weights included. memory_ratio: all its questions over one of them."""
        weights = sum(parameter.nbytes for parameter in self.model.parameters())
        one_clip = self.answers(1, number, num_new)

        def peak(numbers: Sequence[int]) -> float:
            return (weights + peak_bytes(lambda: list(one_clip.ours(numbers)))) / MIB

        ours, one = peak(range(number)), peak(range(1))
        return {"memory_ratio": ours / one, "ours_peak_mib": ours, "one_peak_mib": one}

    def _limit(self, answers: Answers, ours_s: float) -> Figures:
        """Return what the machine could do at best, and our share of it.

        Products at the speed of a large one; and for every pass of the decoder behind the prefill not less than it
        takes to read its weights.
        """
        every = range(len(answers.prompts))
        flops = count_flops(lambda: list(answers.ours(every)))
        num_weights = sum(weight.numel() for weight in self.weights)
        in_pass = 2 * num_weights * len(every)
        reading = sum(weight.nbytes for weight in self.weights) / self.read_speed
        passes = answers.num_new - 1
        limit = (flops - passes * in_pass) / self.matmul_speed + passes * max(in_pass / self.matmul_speed, reading)
        alone = count_flops(lambda: list(answers.hf(every[:1])))
        return {
            "flops_ratio": alone * len(every) / flops,
            "limit_s": limit / len(every),
            "share_of_limit": limit / len(every) / ours_s,
        }

    def heading(self) -> str:
        return (
            "{machine}, {threads} threads, torch {torch}, {dtype}, {matmul_gflops:,.0f} GFLOP/s in a matrix product, "
            "{memory_gb_s:,.0f} GB/s from memory; shape {shape}\n".format(**self.about)
            + heading_of(COLUMNS)
        )


def rotated(numbers: Sequence[int], by: int) -> list[int]:
    by %= len(numbers)
    return [*numbers[by:], *numbers[:by]]


def compared_answers(said: dict[str, dict[int, list[int]]]) -> Figures:
    """Return the share of ours that equal those of `generate`, one by one, and of batches, of those that were asked."""
    shares = {way: [said["ours"][number] == ids for number, ids in said[way].items()] for way in ("hf", "padded")}
    return {
        "same_answers": sum(shares["hf"]) / len(shares["hf"]),
        "compared_answers": len(shares["hf"]),
        "same_answers_as_padded": sum(shares["padded"]) / len(shares["padded"]),
    }


def read_speed(device: str, repetitions: int = 5) -> float:
    """Return the bytes a second at which weights can be read: by a product with a vector."""
    matrix = torch.ones(2**14, STREAM_BYTES // 4 // 2**14, device=device)
    vector = torch.ones(matrix.shape[1], device=device)
    product: Callable[[], object] = lambda: torch.mv(matrix, vector)  # noqa: E731
    product()
    return matrix.nbytes / min(seconds(product) for _ in range(repetitions))


COLUMNS = {
    "questions": "{questions_per_clip}",
    "tokens": "{answer_tokens}",
    "hf s": "{hf_s:.3f}",
    "padded s": "{padded_s:.3f}",
    "ours s": "{ours_s:.3f}",
    "to hf": "{hf_ratio:.2f}x",
    "to plain": "{ratio:.2f}x",
    "first s": "{hf_first_s:.2f} {padded_first_s:.2f} {ours_first_s:.2f}",
    "same": "{same_answers:.0%}",
    "memory": "{memory_ratio:.2f}x",
    "peak MiB": "{one_peak_mib:.0f} {ours_peak_mib:.0f}",
    "flops": "{flops_ratio:.1f}x",
    "of limit": "{share_of_limit:.0%}",
}


def describe(figures: Figures) -> str:
    """Return a line of the table."""
    return line_of(COLUMNS, figures)
