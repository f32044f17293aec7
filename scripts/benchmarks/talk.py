"""The time to the first word of questions about a clip, asked of `reeltune serve` over HTTP.

first   a clip that the server has not seen: it is decoded, its towers and all its tokens are computed
second  another question about the same clip, whose keys and values are kept
"""

import argparse
import base64
import json
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import uvicorn

from data.decoding.isolated_decoder import IsolatedDecoder
from data.video_llava import NUM_FRAMES
from data.web import httpx
from scripts.benchmarks.measure import Figures, compared, heading_of, line_of, machine
from scripts.demo.scenes import film, random_scene
from train.model.build import random_model
from train.results.loading import greedy
from train.serving.endpoint import Endpoint
from train.serving.files import Files
from train.serving.opening import key_of
from train.serving.questions import Reader
from train.serving.server import Limits, guarded, listen
from train.serving.service import Service
from train.talking.sampling import Sampling
from train.talking.talker import GIB, Talker

NAME = "benchmark"
# Answers are of one token: a random model says many that are no word, and the first word would come at any time.
QUESTIONS = ("What colour is the shape?", "Which way does it move?")
COLUMNS = {"first_s": "{first_s:.2f}", "second_s": "{second_s:.3f}", "ratio": "{ratio:.1f}", "kept": "{kept_tokens}"}
DECODE_SECONDS = 60


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=("tiny", "60m", "7b"), help="default: 7b on CUDA, 60m on the CPU")
    parser.add_argument("--clips", type=int, default=5, help="that are asked about, two questions each")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> list[Figures]:
    """Measure and print; return the figures."""
    torch.set_num_threads(arguments.threads)
    on_gpu = torch.cuda.is_available()
    shape = arguments.shape or ("7b" if on_gpu else "60m")
    with torch.device("cuda" if on_gpu else "cpu"):
        model, processor = random_model(shape, torch.bfloat16 if on_gpu else torch.float32, arguments.seed)
    model.eval().generation_config = greedy(processor.tokenizer)
    decode = IsolatedDecoder(DECODE_SECONDS, is_patient=False)
    talker = Talker(model, processor, num_frames=NUM_FRAMES, decode=decode, key=key_of, max_bytes=16 * GIB)
    times: dict[str, list[float]] = {"first": [], "second": []}
    kept = 0
    with tempfile.TemporaryDirectory() as folder, served(talker, Path(folder)) as url:
        clips = list(films(Path(folder), arguments.clips + 1, arguments.seed))
        for question in QUESTIONS:  # starts the decoder, and warms all up
            first_word(url, clips[0], question)
        for clip in clips[1:]:
            for name, question in zip(times, QUESTIONS, strict=True):
                seconds, kept = first_word(url, clip, question)
                times[name].append(seconds)
    decode.end()
    figures = {
        "case": "talk",
        **compared(times["first"], times["second"]),
        "kept_tokens": kept,
        "clips": arguments.clips,
        "shape": shape,
        "dtype": str(model.dtype).removeprefix("torch."),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    shown = {**figures, "first_s": figures["plain_s"], "second_s": figures["ours_s"]}
    print(f"{heading_of(COLUMNS)}\n{line_of(COLUMNS, shown)}")
    return [figures]


def films(folder: Path, number: int, seed: int) -> Iterator[Path]:
    """Yield clips of the demo, each another one."""
    scenes = np.random.default_rng(seed)
    for index in range(number):
        path = folder / f"{index}.mp4"
        film(random_scene(scenes), path)
        yield path


@contextmanager
def served(talker: Talker, folder: Path) -> Iterator[str]:
    """Serve a talker on this machine, for as long as the context lasts; returns the address."""
    limits, uploads = Limits(), folder / "uploads"
    uploads.mkdir()
    files = Files(uploads, limits.max_files, limits.max_file)
    service, bound = Service(talker, limits.max_requests), listen("127.0.0.1", 0, None)
    reader = Reader(NAME, files, Sampling(max_tokens=1))
    app = guarded(Endpoint(service, reader, files).app(), None, False, limits)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="on"))
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    try:
        yield address_of(bound)
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


def address_of(bound: socket.socket) -> str:
    return f"http://127.0.0.1:{bound.getsockname()[1]}/v1"


def first_word(url: str, clip: Path, question: str) -> tuple[float, int]:
    """Return the seconds from sending a question, and its clip, to the first piece of its answer; and the tokens whose
    keys and values were kept."""
    address = f"data:video/mp4;base64,{base64.b64encode(clip.read_bytes()).decode()}"
    content = [{"type": "video_url", "video_url": {"url": address}}, {"type": "text", "text": question}]
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": content}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, seconds, kept = time.perf_counter(), 0.0, 0
    with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=600) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            seconds = seconds or time.perf_counter() - began  # the stream begins with the first piece
            if usage := json.loads(line.removeprefix("data: ")).get("usage"):
                kept = usage["prompt_tokens_details"]["cached_tokens"]
    return seconds, kept
