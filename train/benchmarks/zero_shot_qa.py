"""MSVD-QA, MSRVTT-QA, TGIF-QA and ActivityNet-QA as Video-ChatGPT and Video-LLaVA ask them, and as they came.

The paper's layout is test_q.json, test_a.json and a folder of clips: run_inference_video_qa.py and
scripts/v1_5/eval/run_qa_*.sh in https://github.com/PKU-YuanGroup/Video-LLaVA. The prompt is the question alone.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from train.benchmarks.files import Item, MediaFolders, first_file, load_list, text

# The folders that the paper's scripts name, and those of the original archives.
CLIP_FOLDERS = ("videos/all", "videos", "all_test", "mp4", "video", "YouTubeClips", "TestVideo", "gifs")
# dataset/README.md and evaluation/eval.py in https://github.com/MILVLG/activitynet-qa
ACTIVITYNET_TYPES = {0: "Motion", 1: "Spatial Relation", 2: "Temporal Relation"}
ACTIVITYNET_FREE = {3: "Yes/No", 4: "Color", 5: "Object", 6: "Location", 7: "Number", 8: "Other"}
QUESTIONS, ANSWERS = ("test_q.json", "*_q.json"), "_a.json"


@dataclass(frozen=True)
class Names:
    """The names by which the original files call a clip, such as video7010 for MSRVTT's 7010."""

    prefix: str = ""
    mapping: str | None = None  # a file of lines "NAME prefix+number"


ORIGINAL = {"msvd": Names("vid", "youtube_mapping.txt"), "msrvtt": Names("video")}


def read(name: str, folder: Path, roots: Sequence[Path]) -> Iterator[Item]:
    """Yield the questions of msvd, msrvtt, tgif or activitynet: the paper's where its files are there."""
    clips = MediaFolders(roots, CLIP_FOLDERS)
    if questions := first_file(folder, *QUESTIONS):
        answers = questions.with_name(questions.name.removesuffix("_q.json") + ANSWERS)
        return _paper(name, questions, answers, clips)
    if name == "tgif" and next(folder.rglob("*_question.csv"), None):
        from train.benchmarks.tgif_qa import read_original

        return read_original(folder, clips)
    if name in ORIGINAL and (file := first_file(folder, "test_qa.json", "*_qa.json", "qa_test.json")):
        return _original(file, clips, ORIGINAL[name])
    raise UserError(f"{folder}: has no test_q.json beside test_a.json, nor the original files of {name}; see docs")


def _paper(name: str, questions: Path, answers: Path, clips: MediaFolders) -> Iterator[Item]:
    asked = load_list(questions)
    for number, (question, answer) in enumerate(_joined(questions, asked, answers, load_list(answers)), start=1):
        where = f"{questions} record {number}"
        clip = text(question, where, "video_name", "video_id", "video")
        expected = text(answer, f"{answers}, the answer to record {number}", "answer")
        yield Item(
            id=text(question, where, "question_id"),
            question=text(question, where, "question"),
            answer=expected,
            accept=(expected,),
            media=clips.find(*((f"v_{clip}", clip) if name == "activitynet" else (clip, f"v_{clip}"))),
            metric="exact_match",
            groups=_activitynet_groups(answer, where) if name == "activitynet" else {},
        )


def _joined(questions: Path, asked: list[dict], answers: Path, answered: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield each question with its answer, by question_id: the files need not have one order.

    Where the answers have no ids, or both files have the same ones in the same order, it is by place as in the paper's
    code. Raises UserError for an id without an answer, or with two.
    """
    wanted = [text(each, f"{questions} record {number}", "question_id") for number, each in enumerate(asked, start=1)]
    given = [str(each["question_id"]) if "question_id" in each else None for each in answered]
    if wanted == given or (set(given) == {None} and len(asked) == len(answered)):
        yield from zip(asked, answered, strict=True)
        return
    counts = Counter(given)
    if twice := next((each for each in wanted if counts[each] != 1), None):
        problem = "has no answer" if not counts[twice] else f"has {counts[twice]} answers"
        raise UserError(f"{questions}: question_id {twice!r} {problem} in {answers}; download both files again")
    by_id = dict(zip(given, answered, strict=True))
    for each, question_id in zip(asked, wanted, strict=True):
        yield each, by_id[question_id]


def _activitynet_groups(answer: dict, where: str) -> dict[str, str]:
    """Return the type of a question, and of a free one that of its answer; the paper's copy need not have them."""
    kind = answer.get("type")
    if kind is None:
        return {}
    number = int(kind) if str(kind).isdigit() else -1
    if number in ACTIVITYNET_TYPES:
        return {"question type": ACTIVITYNET_TYPES[number]}
    if number in ACTIVITYNET_FREE:
        return {"question type": "Free", "answer type": ACTIVITYNET_FREE[number]}
    raise UserError(f"{where}: its answer's type is {kind!r}; expected a number from 0 to 8")


def _original(file: Path, clips: MediaFolders, names: Names) -> Iterator[Item]:
    """Yield the questions of a file of {"id", "video_id", "question", "answer"}.

    As https://github.com/xudejing/video-question-answering reads them, whose metric is the share of equal answers.
    """
    mapping = _mapping(file.with_name(names.mapping)) if names.mapping else {}
    for number, record in enumerate(load_list(file), start=1):
        where = f"{file} record {number}"
        video = text(record, where, "video_id", "video")
        clip = names.prefix + video.removeprefix(names.prefix)
        answer = text(record, where, "answer")
        yield Item(
            id=text(record, where, "id", "question_id"),
            question=text(record, where, "question"),
            answer=answer,
            accept=(answer,),
            media=clips.find(clip, *filter(None, [mapping.get(clip)])),
            metric="exact_match",
        )


def _mapping(file: Path) -> dict[str, str]:
    """Return the archive's name of each clip, as youtube_mapping.txt of MSVD has it: "-4wsuPCjDBc_5_15 vid1"."""
    if not file.is_file():
        return {}
    pairs = (line.split() for line in file.read_text(encoding="utf-8").splitlines())
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}
