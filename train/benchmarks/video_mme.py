"""Video-MME: a Parquet file of questions as on the hub, or its JSON, and clips named by videoID.

https://github.com/MME-Benchmarks/Video-MME, formerly BradyFU/Video-MME; without subtitles.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from data.errors import UserError
from train.benchmarks.files import Item, MediaFolders, first_file, lettered, load_list, text, texts

PROMPT = (
    "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
    "letter (A, B, C, or D) of the correct option.\n{question}\n{options}\nThe best answer is:"
)
CLIP_FOLDERS = ("data", "videos", "video")
# The parts of the published table, by their names in the table of questions and in the first JSON.
GROUPS = {
    "duration": ("duration", "duration_category"),
    "domain": ("domain", "video_category"),
    "sub_category": ("sub_category", "video_sub_category"),
    "task_type": ("task_type",),
}


def read(folder: Path, roots: Sequence[Path]) -> Iterator[Item]:
    """Yield the questions of the first table or JSON file of the folder."""
    file = first_file(folder, "*.parquet", "videomme/*.parquet", "data/*.parquet", "*.json")
    if file is None:
        raise UserError(f"{folder}: has neither a .parquet nor a .json file of questions")
    clips = MediaFolders(roots, CLIP_FOLDERS)
    for number, record in enumerate(_questions(file), start=1):
        where = f"{file} question {number}"
        choices = texts(record, where, "options", "choices")
        options = "\n".join(choices) if choices[0].startswith("A.") else lettered(choices)
        yield Item(
            id=text(record, where, "question_id"),
            question=PROMPT.format(question=text(record, where, "question"), options=options),
            answer=text(record, where, "answer"),
            media=clips.find(*_names(record, where)),
            metric="multiple_choice",
            choices=choices,
            groups={name: text(record, where, *keys) for name, keys in GROUPS.items() if any(map(record.get, keys))},
        )


def _questions(file: Path) -> Iterator[dict]:
    """Yield questions with what is known of their clip: tables have it with each, the JSON once a clip."""
    if file.suffix == ".parquet":
        yield from _table(file)
        return
    for record in load_list(file, "videos", "data"):
        inner = record.get("questions")
        yield from ({**record, **each} for each in inner if isinstance(each, dict)) if inner else (record,)


def _table(file: Path) -> Iterator[dict]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches():
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: is damaged or not a Parquet file; download it again") from error


def _names(record: dict, where: str) -> list[str]:
    """Return the names that a clip may have: YouTube's, of which the first JSON has the address alone, and a number."""
    address = record.get("url")
    watched = parse_qs(urlsplit(address).query).get("v", []) if isinstance(address, str) else []
    return [str(record["videoID"])] if record.get("videoID") else [*watched, text(record, where, "video_id")]
