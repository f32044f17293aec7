"""Small clips and records that many tests share."""

import json
from pathlib import Path

import av
import numpy as np

WORDS = """USER: ASSISTANT: What colour is the shape? red green blue Which way does it move? left right up down
Describe the picture. a small square Compare these and say how they differ Hello, how are you? fine thanks"""


def write_clip(path: Path, seed: int, num_frames: int = 12, size: tuple[int, int] = (64, 48)) -> Path:
    """Write a short H.264 clip of a square that moves over noise."""
    random = np.random.default_rng(seed)
    width, height = size
    background = random.integers(0, 120, (height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"x264-params": "mbtree=0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for step in range(num_frames):
            frame = background.copy()
            frame[8:24, 2 * step : 2 * step + 16] = random.integers(120, 256, 3)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    return path


def turns(*texts: str) -> list[dict]:
    """LLaVA turns from texts, the human's first."""
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


MIXED_RECORDS = [
    {"video": f"clip{number}.mp4", "conversations": turns("<video>\n" + question, answer)}
    for number in range(4)
    for question, answer in [
        ("What colour is the shape?", ("red", "green", "blue", "red")[number]),
        ("Which way does it move?", "right"),
        ("Describe the picture.", "a small square"),
    ]
] + [
    {
        "image": "picture0.png",
        "conversations": turns("<image>\nDescribe the picture.", "blue", "How?", "fine thanks"),
    },
    {
        "image": ["picture1.png", "picture2.png"],
        "conversations": turns("<image>\n<image>\nCompare these", "red left"),
    },
    {
        "image": "picture0.png",
        "video": "clip0.mp4",
        "conversations": turns("<image>\n<video>\nHow do they differ?", "one moves"),
    },
    {"conversations": turns("Hello, how are you?", "fine thanks")},
]


def mixed_records(folder: Path) -> list[dict]:
    """Return MIXED_RECORDS with the places of their files in a folder."""
    for record in (records := json.loads(json.dumps(MIXED_RECORDS))):
        for kind in ("image", "video"):
            if kind in record:
                files = record[kind] if isinstance(record[kind], list) else [record[kind]]
                record[kind] = [str(folder / file) for file in files]
    return records
