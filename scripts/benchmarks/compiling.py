"""Training steps on the CPU with the decoder's layers compiled, against the same steps without.

plain  the layers as they are
ours   compiled, as `training.torch_compile: true` does it

A step is forward, backward, clipping and AdamW, on one row; LoRA (r 8) with dropout, float32, a model of the shape 60m
whose decoder is cut to few layers. Rows have a random number of clips, and of questions about each. Both sides train on
a row before the next one comes, and take turns in going first. compile_s is what the first rows, which are not among
the steps, took longer than without; nothing that an earlier run has compiled is used.
"""

import argparse
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache
from transformers import VideoLlavaConfig, VideoLlavaProcessor

from data.processor import measure_visual_tokens
from data.tokens.encoding import IGNORE_INDEX
from scripts.benchmarks.measure import Figures, compared, heading_of, line_of, machine, seconds, spread
from scripts.benchmarks.questions import QuestionMaker
from scripts.benchmarks.ways import labelled_logits_loss
from train.model.adapters import add_adapter
from train.model.attention import SHARED_PREFIX, SHARED_PREFIX_UNMASKED
from train.model.build import SHAPES, build_model, config_and_processor
from train.model.compiled import speed_up_layers
from train.model.recomputed import recompute
from train.recipe.recomputation import LEAST_FIRST

ATTENTION = {"sdpa": SHARED_PREFIX, "flash": SHARED_PREFIX_UNMASKED}
ADAPTER = {"r": 8, "alpha": 16, "dropout": 0.05}
NUM_FRAMES = 2  # 514 tokens a clip
MOST_CLIPS, MOST_QUESTIONS = 2, 25  # of a row, and about each clip
NUM_WARM_UP = 2  # rows: the second has other lengths, and compiles anew what took the first's for constants
MAX_GRADIENT_NORM = 1.0  # transformers' default


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=("tiny", "60m"), default="60m")
    parser.add_argument("--layers", type=int, default=3, help="of the decoder")
    parser.add_argument("--recomputation", choices=LEAST_FIRST, nargs="+", default=list(LEAST_FIRST))
    parser.add_argument("--attention", choices=ATTENTION, nargs="+", default=["flash"])
    parser.add_argument("--rows", type=int, default=6, help="that are measured")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> list[Figures]:
    """Measure and print case by case; return the figures of each."""
    torch.set_num_threads(arguments.threads)
    config, processor = config_and_processor(arguments.shape)
    text: Any = config.text_config
    text.num_hidden_layers = arguments.layers
    about = {
        "shape": arguments.shape,
        "layers": arguments.layers,
        "width": SHAPES[arguments.shape].decoder.hidden,
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    rows = make_rows(processor, NUM_WARM_UP + arguments.rows, arguments.seed)
    about["tokens"] = spread(tokens=[row["input_ids"].shape[1] for row in rows[NUM_WARM_UP:]])["tokens"]
    print(
        "{machine}, {threads} threads, torch {torch}, float32; {layers} layers of {width}, rows of {tokens[0]} to "
        "{tokens[1]} tokens\n".format(**about)
        + heading_of(COLUMNS)
    )
    figures = []
    for attention in arguments.attention:
        for recomputation in arguments.recomputation:
            with compiling_anew():
                case = compare(config, rows, attention, recomputation, arguments.seed)
            figures.append({"case": "compile", **case, **about})
            print(line_of(COLUMNS, figures[-1]), flush=True)
    return figures


def make_rows(processor: VideoLlavaProcessor, number: int, seed: int) -> list[dict[str, Any]]:
    """Return rows of random lengths, decoded."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        maker = QuestionMaker(processor, measure_visual_tokens(processor, NUM_FRAMES), Path(folder), seed)
        rows = []
        for _ in range(number):
            clips, questions = draw.randint(1, MOST_CLIPS), draw.randint(1, MOST_QUESTIONS)
            (row,) = maker.about_clips(clips, questions).rows(clips)
            rows.append({key: value for key, value in row.items() if key not in ("counts", "names")})
    return rows


@contextmanager
def compiling_anew() -> Iterator[None]:
    """Forget what was compiled, in this process and on disk, and count graphs from zero."""
    torch.compiler.reset()
    counters.clear()
    with fresh_cache():
        yield


class Trained:
    """A random model with its adapter and optimizer."""

    def __init__(self, config: VideoLlavaConfig, attention: str, recomputation: str, compiles: bool, seed: int):
        base = build_model(config, seed).requires_grad_(False)
        base.set_attn_implementation({"text_config": ATTENTION[attention]})
        base.config.use_cache = False  # as Trainer sets it
        self.model = add_adapter(base, **ADAPTER).train()
        compilation = {"backend": None, "mode": None} if compiles else None
        speed_up_layers(self.model, compilation, recomputes=recomputation != "none")
        if recomputation != "none":
            recompute(self.model, recomputation == "selective")
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5, fused=True)

    def seconds(self, row: dict[str, Any]) -> float:
        """Return how long a step takes."""
        return seconds(lambda: self._step(row))

    def _step(self, row: dict[str, Any]) -> None:
        num_items = int((row["labels"] != IGNORE_INDEX).sum())
        labelled_logits_loss(self.model, dict(row), num_items).backward()
        nn.utils.clip_grad_norm_(self.trained, MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()


def compare(
    config: VideoLlavaConfig, rows: list[dict[str, Any]], attention: str, recomputation: str, seed: int
) -> Figures:
    """Train on all rows with both sides in turns; graphs and breaks are those of the side that compiles."""
    sides = {side: Trained(config, attention, recomputation, side == "ours", seed) for side in ("plain", "ours")}
    times: dict[str, list[float]] = {side: [] for side in sides}
    graphs = 0  # after the rows that warm up
    for number, row in enumerate(rows):
        if number == NUM_WARM_UP:
            graphs = counters["stats"]["unique_graphs"]
        for side in list(sides)[:: 1 if number % 2 else -1]:
            times[side].append(sides[side].seconds(row))
    plain, ours = (times[side][NUM_WARM_UP:] for side in ("plain", "ours"))
    figures = compared(plain, ours)
    ratios = [one / other for one, other in zip(plain, ours, strict=True)]
    figures["spread"] |= spread(ratio=ratios)
    return {
        "attention": attention,
        "recomputation": recomputation,
        **figures,
        "ratio": median(ratios),  # of equal rows
        "compile_s": sum(times["ours"][:NUM_WARM_UP]) - sum(times["plain"][:NUM_WARM_UP]),
        "graphs": graphs,
        "later_graphs": counters["stats"]["unique_graphs"] - graphs,
        "graph_breaks": sum(counters["graph_break"].values()),
    }


COLUMNS = {
    "attention": "{attention}",
    "recomputed": "{recomputation}",
    "plain s": "{plain_s:.3f}",
    "compiled s": "{ours_s:.3f}",
    "to plain": "{ratio:.2f}x",
    "(spread)": "{spread[ratio][0]:.2f}-{spread[ratio][1]:.2f}",
    "compiling": "{compile_s:.0f} s",
    "graphs": "{graphs}",
    "later": "{later_graphs}",
    "breaks": "{graph_breaks}",
}
