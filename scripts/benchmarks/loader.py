"""Clips a second of the data loader: decoding them, and from its caches.

cold      every clip is decoded
frames    data.frame_cache has all of them
features  data.feature_cache has the towers' outputs (random numbers here), in bfloat16

A row has one clip, of the size that Video-LLaVA-7B takes, with one question. All clips have the same content and are
files of their own, which lie in the system's memory when they are read. All ways take turns, after a pass that fills
the caches. Loaders that read a cache have no decoder here: a miss ends the benchmark.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from statistics import median

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, VideoLlavaProcessor

from data.batches.byte_pixels import as_bytes
from data.batches.collator import RowCollator
from data.batches.pixels import PixelLoader
from data.batches.workers import loader_workers, start_server
from data.cache.feature_cache import FeatureLoader, Features
from data.cache.frame_cache import FrameCache
from data.media.reference import Media
from data.packing.dataset import RowDataset, shared_prefix_rows
from data.processor import measure_visual_tokens
from data.sources.source import Source
from data.tokens.corpus import load_corpus
from data.video_llava import NUM_FRAMES, VisualTokens
from scripts.benchmarks.decode import make_clip
from scripts.benchmarks.measure import Figures, compared, machine, seconds
from train.model.build import FEATURE_LAYER, PATCH_SIZE, SHAPES, build_processor, train_tokenizer

MAX_LENGTH = 4096  # tokens of a conversation
QUESTION_ROOM = 100  # tokens: a row has room for its clip and the question
CLIP = {"gop": 10, "height": 240, "rate": 30}  # of the clips: seconds between key frames, pixels, frames a second
QUESTION, ANSWER = "What can be seen here?", "a plain"


class CacheOnly(PixelLoader):
    """A loader with a cache and without a decoder."""

    def decoded(self, item: Media) -> torch.Tensor:
        raise AssertionError(f"{item.path} was decoded although its frames are in the cache")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30, help="of each clip")
    parser.add_argument("--workers", type=int, default=2, help="of the data loader; 0 is none beside the main process")
    parser.add_argument("--repetitions", type=int, default=3)


def run(arguments: argparse.Namespace) -> list[Figures]:
    """Measure and print; return figures for each cache, seconds a clip without (`plain_s`) and with it (`ours_s`)."""
    start_server("train.sft")  # as train/sft.py does
    processor = build_processor(train_tokenizer([QUESTION, ANSWER]), SHAPES["7b"].edge)
    visual_tokens = measure_visual_tokens(processor, NUM_FRAMES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = make_rows(folder, processor.tokenizer, visual_tokens, arguments)
        ways = make_loaders(folder, processor, [sample.media[0] for sample in rows.samples])
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(arguments.repetitions):
            for way, load_pixels in ways.items():
                collate = RowCollator(processor, visual_tokens, load_pixels=as_bytes(load_pixels))
                elapsed = seconds(lambda collate=collate: go_through(rows, collate, arguments.workers))
                times[way].append(elapsed / arguments.clips)
    about = {"clips": arguments.clips, "clip_s": arguments.seconds, "workers": arguments.workers, "machine": machine()}
    return report(times, about)


def make_rows(
    folder: Path, tokenizer: PreTrainedTokenizerBase, visual_tokens: VisualTokens, arguments: argparse.Namespace
) -> RowDataset:
    """Film the clips and pack a question about each into a row of its own."""
    make_clip(folder / "clip.mp4", arguments.seconds, **CLIP)
    turns = [{"from": "human", "value": f"<video>\n{QUESTION}"}, {"from": "gpt", "value": ANSWER}]
    names = [f"{number}.mp4" for number in range(arguments.clips)]
    for name in names:
        shutil.copy(folder / "clip.mp4", folder / name)
    records = folder / "records.json"
    records.write_text(json.dumps([{"video": name, "conversations": turns} for name in names]))
    samples = load_corpus([Source(records)], tokenizer, visual_tokens, MAX_LENGTH).samples
    return shared_prefix_rows(samples, tokenizer, visual_tokens, 1, visual_tokens.video + QUESTION_ROOM, seed=0)


def make_loaders(
    folder: Path, processor: VideoLlavaProcessor, clips: list[Media]
) -> dict[str, PixelLoader | FeatureLoader]:
    """Make the loaders of the towers' inputs, and fill their caches."""
    frames = FrameCache(folder / "frames", processor, NUM_FRAMES)
    shape = SHAPES["7b"]
    num_tokens = (shape.edge // PATCH_SIZE) ** 2 + 1  # and a class token
    width = shape.tower.hidden
    about = Features((FEATURE_LAYER,), num_tokens, width, torch.bfloat16, {"video": "random"}, "torch.bfloat16")
    features = FeatureLoader(folder / "features", processor, NUM_FRAMES, about)
    fill = PixelLoader(processor, NUM_FRAMES, frames)
    for clip in tqdm(clips, desc="filling", unit="clip", disable=None):
        fill.fitted(clip)
        features.keep(clip, torch.randn(NUM_FRAMES, *about.shape).bfloat16())
    cold, cached = PixelLoader(processor, NUM_FRAMES), CacheOnly(processor, NUM_FRAMES, frames)
    return {"cold": cold, "frames": cached, "features": features}


def go_through(rows: RowDataset, collate: RowCollator, num_workers: int) -> None:
    """Load every row of an epoch."""
    order = rows.rows(epoch=0)
    batches = DataLoader(rows, sampler=order, collate_fn=collate, **loader_workers(num_workers))
    assert sum(batch["counts"]["clips"] for batch in batches) == len(rows.samples)


def report(times: dict[str, list[float]], about: Figures) -> list[Figures]:
    """Print a table and return the figures."""
    print("{machine}, {clips} clips of {clip_s:g} s, {workers} workers\n".format(**about))
    print("| | clips a second (spread) | to cold |\n| --- | --- | --- |")
    figures = []
    for way, values in times.items():
        rates = [1 / value for value in (median(values), max(values), min(values))]
        ratio = median(times["cold"]) / median(values)
        print("| {} | {:.1f} ({:.1f} to {:.1f}) | {:.1f}x |".format(way, *rates, ratio), flush=True)
        if way != "cold":
            compare = compared(plain=times["cold"], ours=values)
            case = {"case": "loader", "cache": way, "clips_per_s": rates[0], "decoder_calls": 0}
            figures.append({**case, **compare, **about})
    return figures
