"""Damaged files through the isolated decoder: each is pixels or one line, and the process that asks lives on.

    python tests/fuzz/fuzz.py 10000 --json outputs/fuzz.json
    python tests/fuzz/fuzz.py rows 10000 --json outputs/fuzz_rows.json

The second line sends damaged data files through what reads records, see `records.py`.

Mutations of five small files, drawn from a seed. Prints how many were decoded and refused, crashed the decoder or took
too long, and names the seeds of what must not be: an array of another shape, or an error that is none of the reader's.
Exit status 1 if there is any.
"""

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from data.decoding.isolated_decoder import IsolatedDecoder
from data.errors import MediaError
from data.media.reference import Media
from tests.fuzz.mutations import mutate
from tests.fuzz.records import fuzz_records
from tests.fuzz.report import report_of
from tests.media_samples import draw_frames, write_clip

NUM_FRAMES = 8
OUTCOMES = {
    "took too long": "takes more than",
    "crashed the decoder": "the decoder crashed",
    "took too much memory": "needs more than",
}
NOT_THE_READER_S = re.compile(r"' [A-Za-z_.]*(Error|Exception|Warning|Exit|Interrupt): ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("media", "rows"), default="media", help="is damaged")
    parser.add_argument("number", type=int, help="of mutations")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--seconds", type=float, default=10, help="what one file may take")
    parser.add_argument("--workers", type=int, default=2, help="decoders at once")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seeds = range(arguments.first, arguments.first + arguments.number)
        run = fuzz if arguments.what == "media" else fuzz_records
        report = run(Path(folder), seeds, arguments.seconds, arguments.workers)
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n")
    sys.exit(bool(report["wrong"]))


def fuzz(folder: Path, seeds: range, seconds: float, num_workers: int) -> dict:
    """Return the report: outcomes (kind of file -> outcome -> number), named (what ended a decoder), wrong."""
    files = write_files(folder)
    outcomes: dict[str, Counter] = {path.suffix[1:]: Counter() for path in files}
    named, wrong = [], []

    def work(worker: int) -> None:
        decoder = IsolatedDecoder(seconds, memory=2**30)
        for seed in seeds[worker::num_workers]:
            source = files[seed % len(files)]
            outcome, line = try_one(decoder, source, folder / f"{worker}{source.suffix}", seed)
            outcomes[source.suffix[1:]][outcome] += 1
            if outcome == "wrong":
                wrong.append(f"seed {seed}: {line}")
            elif outcome in OUTCOMES:
                named.append(f"seed {seed}: {line}")

    report = report_of(work, num_workers, seeds, outcomes)
    return {**report, "named": sorted(named), "wrong": sorted(wrong)}


def try_one(decoder: IsolatedDecoder, source: Path, target: Path, seed: int) -> tuple[str, str]:
    """Return the outcome of one mutation, and the line that describes it."""
    target.write_bytes(mutate(source.read_bytes(), np.random.default_rng(seed)))
    kind = "image" if source.suffix in (".jpg", ".png") else "video"
    try:
        pixels = decoder(Media(kind, str(target)), NUM_FRAMES)
    except MediaError as problem:
        line = str(problem)
        for outcome, words in OUTCOMES.items():
            if f"{str(target)!r} {words}" in line:
                return outcome, line
        return "wrong" if "\n" in line or str(target) not in line or NOT_THE_READER_S.search(line) else "refused", line
    lead = (NUM_FRAMES,) if kind == "video" else ()
    is_right = pixels.dtype == np.uint8 and pixels.shape[:-3] == lead and pixels.shape[-1] == 3 and pixels.size > 0
    return ("decoded" if is_right else "wrong"), f"{pixels.dtype} {pixels.shape}"


def write_files(folder: Path) -> list[Path]:
    frames = draw_frames(24)
    clips = [
        write_clip(folder / "clip.mp4", frames, g="8", bf="2"),
        write_clip(folder / "clip.webm", frames, "libvpx-vp9", deadline="realtime"),
    ]
    Image.fromarray(frames[0]).save(
        folder / "clip.gif", save_all=True, append_images=[Image.fromarray(f) for f in frames[1:]]
    )
    for name in ("picture.jpg", "picture.png"):
        Image.fromarray(frames[3]).save(folder / name)
    return [*clips, folder / "clip.gif", folder / "picture.jpg", folder / "picture.png"]


if __name__ == "__main__":
    main()
