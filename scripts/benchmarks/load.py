"""Seconds and memory for reading a large data set, from the data file to the first batch.

A fresh process does what train/sft.py does: read, check, tokenise, group, plan the rows of an epoch, fingerprint, start
the loader's workers, take a batch. It does so twice: the first start keeps tokens and rows on disk, the second finds
them. Two data sets: many questions about each clip, and one question about each, which
has most clips and most groups (parts of a few files, because all that counts is that they differ).

base    the process when everything is imported and the processor loaded, before a record is read
rss     resident, with the libraries' files, which all processes share; peak: the highest so far; anon: without files
own     memory that a worker shares with no other process (USS)
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from accelerate.data_loader import DataLoaderShard

import train.sft  # noqa: F401  all that training imports
from data.batches.collator import RowCollator
from data.batches.workers import loader_workers
from data.processor import set_up_processor
from data.video_llava import NUM_FRAMES
from scripts.benchmarks.measure import Figures, machine
from scripts.demo.scenes import film, random_scene
from train.loop.rows import RowReader
from train.model.build import SHAPES, build_config, build_processor, train_tokenizer
from train.model.load import quiet_libraries
from train.recipe.entries import Dataset
from train.recipe.recipe import Data
from train.run_folder.bad_media import imprint_now

NUM_FILES = 4
STARTS = ("first", "second")
KIB, MB = 2**10, 10**6
QUESTIONS = (
    ("What colour is the shape in number {}?", "red"),
    ("Which way does it move after {}?", "left"),
    ("How do they differ? Say it in {} words.", "green moves up"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=int, default=1_000_000, help="conversations in the data file")
    parser.add_argument("--questions-per-clip", type=int, nargs="+", default=[25, 1])
    parser.add_argument("--workers", type=int, default=2, help="of the data loader")


def run(arguments: argparse.Namespace) -> list[Figures]:
    """Measure and print case by case; return the figures of each."""
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        write_processor_and_clips(Path(folder))
        for questions_per_clip in arguments.questions_per_clip:
            write_records(Path(folder), arguments.records, questions_per_clip)
            command = [sys.executable, "-m", "scripts.benchmarks.load", folder, str(arguments.workers)]
            environment = {**os.environ, "XDG_CACHE_HOME": str(Path(folder, f"cache{questions_per_clip}"))}
            for start in STARTS:
                printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
                measured = json.loads(printed.splitlines()[-1])
                about = {"case": "load", "records": arguments.records, "questions_per_clip": questions_per_clip}
                figures.append({**about, "start": start, **measured, "machine": machine()})
                print(describe(figures[-1]), flush=True)
    return figures


def write_processor_and_clips(folder: Path) -> None:
    words = [text for pair in QUESTIONS for text in pair]
    processor = build_processor(
        train_tokenizer([f"USER: ASSISTANT: 0123456789 {' '.join(words)}"] * 4), SHAPES["tiny"].edge
    )
    processor.save_pretrained(folder)
    build_config("tiny", processor.tokenizer).save_pretrained(folder)
    random = np.random.default_rng(0)
    for number in range(NUM_FILES):
        film(random_scene(random), folder / f"{number}.mp4")


def write_records(folder: Path, num_records: int, questions_per_clip: int) -> None:
    with open(folder / "train.jsonl", "w") as file:
        for number in range(num_records):
            clip = number // questions_per_clip
            question, answer = QUESTIONS[number % len(QUESTIONS)]
            turns = [
                {"from": "human", "value": f"<video>\n{question.format(number)}"},
                {"from": "gpt", "value": answer},
            ]
            record = {"video": f"{clip % NUM_FILES}.mp4", "start": clip * 1e-6, "conversations": turns}
            file.write(json.dumps(record) + "\n")


def load(folder: Path, num_workers: int) -> Figures:
    """Measure this process, which should have done nothing before."""
    quiet_libraries()
    processor, visual_tokens, _ = set_up_processor(str(folder), num_frames=NUM_FRAMES)
    base, start = memory(), time.perf_counter()
    data = Data(train=[Dataset(path=str(folder / "train.jsonl"))])
    rows: Any = RowReader(data, processor.tokenizer, visual_tokens, 0).train_rows()
    loaded = time.perf_counter()
    rows.fingerprint(imprint_now)
    fingerprinted = time.perf_counter()
    loader = DataLoaderShard(
        rows,
        batch_sampler=rows.batches(batch_size=1, rows_per_step=data.rows_per_step),
        collate_fn=RowCollator(processor, visual_tokens),
        **loader_workers(num_workers),
    )
    batches = iter(loader)
    next(batches)
    seconds = {
        "load_s": loaded - start,
        "fingerprint_s": fingerprinted - loaded,
        "batch_s": time.perf_counter() - fingerprinted,
    }
    now = {"ours_s": sum(seconds.values()), **seconds, "packed_rows": len(rows), "base": base, "process": memory()}
    return {**now, "workers": [memory(worker.pid) for worker in worker_processes()]}


def worker_processes() -> list[psutil.Process]:
    """Return this process's children, or those of the server that is one of them (see `data.batches.workers`)."""
    children = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return next((others for child in children if (others := child.children())), children)


def memory(pid: int | None = None) -> dict[str, int]:
    """Return a process's bytes. The peak is VmHWM: ru_maxrss would begin with that of the parent."""
    info = psutil.Process(pid).memory_full_info()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid or 'self'}/status").read_text().splitlines())
    lines = {name: KIB * int(status[key].split()[0]) for name, key in (("anon", "RssAnon"), ("peak", "VmHWM"))}
    return {"rss": info.rss, "own": info.uss, "pss": info.pss, **lines}


def describe(case: Figures) -> str:
    """Return the line that is printed for a case."""
    now, base = ({name: value // MB for name, value in case[when].items()} for when in ("process", "base"))
    own = ", ".join(str(worker["own"] // MB) for worker in case["workers"])
    return (
        f"load    {case['records']} conversations, {case['questions_per_clip']} a clip, {case['packed_rows']} rows, "
        f"{case['start']} start: first batch after {case['ours_s']:.0f} s; rss {now['rss']} MB (base {base['rss']}, "
        f"peak {now['peak']}), anon {now['anon']} MB (base {base['anon']}); workers' own {own} MB"
    )


if __name__ == "__main__":
    print(json.dumps(load(Path(sys.argv[1]), int(sys.argv[2]))))
