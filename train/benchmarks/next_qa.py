"""NExT-QA, multiple choice: test.csv or val.csv with a0 to a4, as https://github.com/doc-doc/NExT-QA has them.

The open-ended form, which is scored by WUPS over WordNet, is left out.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data.errors import UserError
from train.benchmarks.files import Item, MediaFolders, first_file, lettered, load_csv, load_json

OPTIONS = ("a0", "a1", "a2", "a3", "a4")
# The options as in lmms-eval's nextqa/utils.py, and LLaVA-1.5's words for them: the authors asked no language model.
PROMPT = "{question}\n{options}\nAnswer with the option's letter from the given choices directly."
KINDS = {"C": "Causal", "T": "Temporal", "D": "Descriptive"}
TYPES = {"TP": "TN"}  # eval_mc.py counts questions about before and after together
CLIP_FOLDERS = ("NExTVideo", "videos", "video")
MAPPING = ("map_vid_vidorID.json", "**/map_vid_vidorID.json")


def read(folder: Path, roots: Sequence[Path]) -> Iterator[Item]:
    """Yield the questions of the test set, or of the validation set where it is the only one."""
    file = first_file(folder, "test.csv", "MC/test.csv", "nextqa/test.csv", "val.csv", "*/val.csv", "*.csv")
    if file is None:
        raise UserError(f"{folder}: has no test.csv or val.csv with the columns {', '.join(OPTIONS)}")
    mapping_file = first_file(folder, *MAPPING)
    mapping = load_json(mapping_file) if mapping_file else {}
    try:
        yield from _items(file, MediaFolders(roots, CLIP_FOLDERS), mapping if isinstance(mapping, dict) else {})
    except UserError as problem:
        if "has no column a0" not in str(problem):
            raise
        raise UserError(
            f"{file}: has no options a0 to a4: open-ended NExT-QA, which is scored by WUPS, is not supported"
        ) from None


def _items(file: Path, clips: MediaFolders, mapping: dict) -> Iterator[Item]:
    for number, line in enumerate(load_csv(file, (*OPTIONS, "video", "question", "answer", "qid", "type")), start=2):
        choices, answer = [line[option].strip() for option in OPTIONS], line["answer"].strip()
        if not answer.isdigit() or int(answer) >= len(choices):
            raise UserError(f"{file} line {number}: answer {answer!r} is no place among a0 to a4")
        video, kind = line["video"].strip(), line["type"].strip()
        yield Item(
            id=f"{video}_{line['qid'].strip()}",
            question=PROMPT.format(question=line["question"].strip(), options=lettered(choices)),
            answer=f"({chr(ord('A') + int(answer))})",
            media=clips.find(str(mapping.get(video, video)), video),
            metric="multiple_choice",
            choices=choices,
            groups={"kind": KINDS.get(kind[:1], kind), "type": TYPES.get(kind, kind)},
        )
