"""TGIF-QA as it came: tables of four tasks, https://github.com/YunseokJANG/tgif-qa/tree/master/dataset"""

from collections.abc import Iterator
from pathlib import Path

from data.errors import UserError
from train.benchmarks.files import Item, MediaFolders, lettered, load_csv

FRAME_TYPES = {"0": "Object", "1": "Number", "2": "Color", "3": "Location"}
OPTIONS = ("a1", "a2", "a3", "a4", "a5")
TASKS = ("frameqa", "count", "action", "transition")
# The authors asked no language model; this is LLaVA-1.5's prompt for options.
PROMPT = "{question}\n{options}\nAnswer with the option's letter from the given choices directly."


def read_original(folder: Path, clips: MediaFolders) -> Iterator[Item]:
    """Yield the questions of Test_TASK_question.csv, whichever of the four there are; tabs part their columns.

    The authors score counts by the mean squared error; here a count is right or wrong.
    """
    files = {task: path for task in TASKS for path in sorted(folder.rglob(f"Test_{task}_question.csv"))[:1]}
    if not files:
        raise UserError(f"{folder}: has no Test_TASK_question.csv; the tasks are {', '.join(TASKS)}")
    for task, file in files.items():
        has_options = task in ("action", "transition")
        needed = ("gif_name", "question", "answer", "key", *(OPTIONS if has_options else ()))
        for number, line in enumerate(load_csv(file, needed, "\t"), start=2):
            groups = {"task": task}
            if task == "frameqa" and (kind := line.get("type")) in FRAME_TYPES:
                groups["type"] = FRAME_TYPES[kind]
            choices = [line[option].strip() for option in OPTIONS] if has_options else []
            question, answer = line["question"].strip(), line["answer"].strip()
            if has_options:
                if not answer.isdigit() or int(answer) >= len(choices):
                    raise UserError(f"{file} line {number}: answer {answer!r} is no place among the options")
                question = PROMPT.format(question=question, options=lettered(choices))
                answer = f"({chr(ord('A') + int(answer))})"
            yield Item(
                id=f"{task}/{line['key'].strip()}/{number - 1}",
                question=question,
                answer=answer,
                accept=() if has_options else (answer,),
                media=clips.find(line["gif_name"].strip()),
                metric="multiple_choice" if has_options else "exact_match",
                choices=choices,
                groups=groups,
            )
