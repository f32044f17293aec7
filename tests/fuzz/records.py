"""Damaged data files through everything that reads records: each gives conversations and lines, and nothing else.

Four records with clips, pictures, parts and bytes, in JSON, JSONL, Parquet, Arrow, its stream and tar; half of the
mutations change their JSON, the others the bytes of the file.
"""

import copy
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import UserError
from data.inspection.check import read_contents
from data.isolation.child_process import ChildProcess
from data.media.reference import Downloads
from data.sources.source import Source
from data.tokens.corpus import load_corpus
from data.video_llava import VisualTokens
from tests.fuzz.mutations import mutate
from tests.fuzz.report import report_of
from tests.tiny_data import WORDS
from train.model.build import build_processor, train_tokenizer

MEMORY = 2 * 2**30  # bytes that one file may take, more than the reader of records begins with
MAX_LENGTH = 4096
FORMS = ("json", "jsonl", "parquet", "arrow", "stream", "tar")
RECORDS = [
    {"id": "1", "video": "a.mp4", "start": 1, "conversations": [
        {"from": "human", "value": "<video>\nWhat colour is it?"}, {"from": "gpt", "value": "red"}]},
    {"id": "2", "image": ["b.png", "c.png"], "conversations": [
        {"from": "human", "value": "<image><image>\nWhich?"}, {"from": "gpt", "value": "größer"},
        {"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "yes 映画"}]},
    {"id": "3", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "fine"}]},
]  # fmt: skip
TYPED = {"id": "4", "accept": ["a"], "messages": [
    {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
    {"role": "user", "content": [
        {"type": "video", "url": "https://example.com/a.mp4", "start": 0.5, "end": 2},
        {"type": "image", "bytes": "eHg=", "path": "x.png"}, {"type": "video", "frames": ["d.png"], "fps": 2},
        {"type": "text", "text": "And now?"}]},
    {"role": "assistant", "content": "nothing"}]}  # fmt: skip
# What json.dumps cannot write stands in for it, and is put into its text.
DEEP, LONG = "@deep@", "@long@"
RAW = {'"@deep@"': "[" * 5000 + "]" * 5000, '"@long@"': "9" * 5000}
STRANGE: tuple[Callable[[], Any], ...] = (
    *(lambda: None, lambda: True, lambda: 0, lambda: -1, lambda: 1e308, lambda: float("nan"), lambda: float("inf")),
    *(lambda: 10**400, lambda: 2**64, lambda: "", lambda: "x" * 5000, lambda: "\0", lambda: "\ud83d", lambda: "</s>"),
    *(lambda: "<video>" * 50, lambda: "<image>", lambda: "../" * 50, lambda: "http://a..b/", lambda: "http://[", list),
    *(
        lambda: "data:,",
        lambda: "base64,###",
        lambda: "\x1b[31m\n",
        dict,
        lambda: [[]],
        lambda: [None],
        lambda: {"": {}},
    ),
    *(lambda: nested(200), lambda: DEEP, lambda: LONG, lambda: {"type": []}, lambda: "/dev/zero"),
)


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


class ReadRecords:
    """Read a data file as the check does and as training does; return how many are sound, and all lines."""

    def __init__(self, model: str):
        self.model, self.tokenizer = model, None

    def __call__(self, job: str) -> list:
        from transformers import AutoTokenizer

        self.tokenizer = self.tokenizer or AutoTokenizer.from_pretrained(self.model)
        source = Source(job, downloads=Downloads(str(Path(job).parent / "cache")))
        tokens = VisualTokens(image=4, video=16, num_frames=8)
        contents = read_contents([source], self.tokenizer, tokens, MAX_LENGTH)
        lines = [f"{problem.row or problem.file} {problem.reason}" for problem in contents.problems]
        try:
            load_corpus([source], self.tokenizer, tokens, MAX_LENGTH, max_bad_media=1)
        except UserError as problem:
            lines.append(str(problem))
        return [len(contents.samples), lines[:50]]


def fuzz_records(folder: Path, seeds: range, seconds: float, num_workers: int) -> dict:
    """Return the report: outcomes (form -> outcome -> number) and wrong, the seeds of what must not be."""
    outcomes: dict[str, Counter] = {form: Counter() for form in FORMS}
    wrong: list[str] = []
    build_processor(train_tokenizer([WORDS] * 3), image_size=56).tokenizer.save_pretrained(folder / "tokenizer")
    reader = ReadRecords(str(folder / "tokenizer"))

    def work(worker: int) -> None:
        process = ChildProcess(reader, seconds, MEMORY)
        for seed in seeds[worker::num_workers]:
            form = FORMS[seed % len(FORMS)]
            path = folder / f"{worker}.{'arrow' if form == 'stream' else form}"
            path.write_bytes(mutated_file(form, np.random.default_rng(seed)))
            answer = process.ask(str(path))
            outcome, line = judged(answer, str(path))
            outcomes[form][outcome] += 1
            if outcome == "wrong":
                wrong.append(f"seed {seed}: {line}")
            if not process.is_alive():
                process.end()
                process = ChildProcess(reader, seconds, MEMORY)
        process.end()

    return {**report_of(work, num_workers, seeds, outcomes), "wrong": sorted(wrong)}


def judged(answer: Any, path: str) -> tuple[str, str]:
    """Return the outcome of one file: sound, partly sound, refused or wrong; and the line that says why."""
    if answer.failure is not None:
        return "wrong", f"{path} {answer.failure}"
    num_sound, lines = answer.result
    for line in lines:
        if "\n" in line or not line.isprintable() and "\u3000" not in line or path not in line:
            return "wrong", line
    return ("refused" if lines and not num_sound else "partly sound" if lines else "sound"), ""


def mutated_file(form: str, random: np.random.Generator) -> bytes:
    """Return a data file with something wrong in its records, or in its bytes."""
    records = copy.deepcopy(RECORDS if form in ("parquet", "arrow", "stream") else [*RECORDS, TYPED])
    if random.random() < 0.5:
        return mutate(written(form, records), random)
    for _ in range(random.integers(1, 4)):
        records = change(records, random)
    try:
        return written(form, records)
    except (pa.ArrowException, AttributeError, OverflowError, TypeError, ValueError):  # a table has no such values
        return mutate(written(form, RECORDS), random)


def change(value: Any, random: np.random.Generator) -> Any:
    """Return a value with one thing in it changed: something strange in its place, a key or an item gone or doubled."""
    inner = (
        list(value.keys()) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    if not inner or random.random() < 0.1:
        return STRANGE[random.integers(len(STRANGE))]()
    place = inner[random.integers(len(inner))]
    way = random.random()
    if way < 0.7:
        value[place] = change(value[place], random)
    elif way < 0.85:
        del value[place]
    elif isinstance(value, dict):
        value[("type", "bytes", "url", "\ud83d", "from", "end", "videos")[random.integers(7)]] = value[place]
    else:
        value.insert(int(random.integers(len(value) + 1)), copy.deepcopy(value[place]))
    return value


def to_json(value: Any) -> bytes:
    text = json.dumps(value)
    for stand_in, raw in RAW.items():
        text = text.replace(stand_in, raw)
    return text.encode()


def written(form: str, records: Any) -> bytes:
    """Return the bytes of a data file."""
    if form == "json":
        return to_json(records)
    if form == "jsonl":
        return b"\n".join(map(to_json, records if isinstance(records, list) else [records]))
    target = io.BytesIO()
    if form == "tar":
        with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for number, record in enumerate(records if isinstance(records, list) else [records]):
                for name, content in ((f"{number}.json", to_json(record)), (f"{number}.mp4", b"xx")):
                    header = tarfile.TarInfo(name)
                    header.size = len(content)
                    tar.addfile(header, io.BytesIO(content))
        return target.getvalue()
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise TypeError("a table has records")
    table = pa.Table.from_pylist(records)
    if form == "parquet":
        pq.write_table(table, target)
    else:
        with (pa.ipc.new_file if form == "arrow" else pa.ipc.new_stream)(target, table.schema) as writer:
            writer.write_table(table)
    return target.getvalue()
