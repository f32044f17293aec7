"""TempCompass: questions/TASK.json and videos/ID.mp4, as run_video_llava/inference_dataset.py asks them.

https://github.com/llyx97/TempCompass. Captioning is left out: nothing but a language model scores it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data.errors import UserError
from data.media.locate import shown
from train.benchmarks.files import Item, MediaFolders, first_file, load_json, text

# The words that the authors' script for Video-LLaVA puts behind each question.
ENDINGS = {
    "multi-choice": "\nPlease directly give the best option:",
    "yes_no": "\nPlease answer yes or no:",
    "caption_matching": "\nPlease directly give the best option:",
}


def read(folder: Path, roots: Sequence[Path]) -> Iterator[Item]:
    """Yield the questions of the tasks that are there, each {clip: {dimension: [{"question", "answer"}]}}."""
    files = {task: first_file(folder, f"questions/{task}.json", f"{task}.json") for task in ENDINGS}
    if not any(files.values()):
        raise UserError(f"{folder}: has no questions/TASK.json; the tasks are {', '.join(ENDINGS)}")
    clips = MediaFolders(roots, ("videos", "video"))
    for task, file in files.items():
        for clip, dimension, number, record in _records(file) if file else ():
            where = f"{file}, {clip}, {dimension} {number}"
            question = text(record, where, "question")
            yield Item(
                id=f"{task}/{clip}/{dimension}/{number}",
                question=question + ENDINGS[task],
                answer=text(record, where, "answer"),
                media=clips.find(clip),
                metric="yes_no" if task == "yes_no" else "multiple_choice",
                choices=() if task == "yes_no" else question.split("\n")[1:],
                groups={"task": task, "dimension": dimension},
            )


def _records(file: Path) -> Iterator[tuple[str, str, int, dict]]:
    content = load_json(file)
    for clip, dimensions in content.items() if isinstance(content, dict) else [("", content)]:
        if not isinstance(dimensions, dict) or not all(isinstance(each, list) for each in dimensions.values()):
            raise UserError(f"{file}, {clip!r}: expected {{dimension: [questions]}}, got {shown(dimensions)}")
        for dimension, records in dimensions.items():
            for number, record in enumerate(records, start=1):
                if not isinstance(record, dict):
                    raise UserError(f"{file}, {clip}, {dimension} {number}: expected an object, got {shown(record)}")
                yield clip, dimension, number, record
