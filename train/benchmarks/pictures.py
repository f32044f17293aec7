"""VQAv2 and GQA: questions about pictures in the files of their authors, with LLaVA-1.5's prompt."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data.errors import UserError
from data.media.locate import shown
from train.benchmarks.files import PICTURES, Item, MediaFolders, first_file, load_json, load_list, text

# https://github.com/haotian-liu/LLaVA/blob/main/docs/Evaluation.md, which the paper follows for pictures.
PROMPT = "{}\nAnswer the question using a single word or phrase."
SPLITS = ("val2014", "train2014")  # the test set has no public answers


def read_vqav2(folder: Path, roots: Sequence[Path]) -> Iterator[Item]:
    """Yield questions of v2_OpenEnded_mscoco_SPLIT_questions.json with the ten answers of the annotations.

    https://visualqa.org/download.html
    """
    questions = first_file(folder, *(f"*{split}_questions.json" for split in SPLITS), "*questions.json")
    annotations = first_file(folder, *(f"*{split}_annotations.json" for split in SPLITS), "*annotations.json")
    if questions is None or annotations is None:
        raise UserError(f"{folder}: needs *_questions.json and *_annotations.json of VQAv2, such as those of val2014")
    split = next((split for split in SPLITS if split in questions.name), SPLITS[0])
    pictures = MediaFolders(roots, (split, "images", f"images/{split}"), PICTURES)
    answered = {str(each.get("question_id")): each for each in load_list(annotations, "annotations")}
    for number, record in enumerate(load_list(questions, "questions"), start=1):
        where = f"{questions} question {number}"
        question_id, image = text(record, where, "question_id"), text(record, where, "image_id", "image")
        if (answer := answered.get(question_id)) is None:
            raise UserError(f"{where}: question_id {question_id} has no answer in {annotations}")
        people = answer.get("answers")
        if not isinstance(people, list) or not people:
            raise UserError(f"{annotations}, question {question_id}: needs a list 'answers'; got {shown(answer)}")
        yield Item(
            id=question_id,
            question=PROMPT.format(text(record, where, "question")),
            answer=text(answer, f"{annotations}, question {question_id}", "multiple_choice_answer"),
            media=pictures.find(f"COCO_{split}_{int(image):012d}" if image.isdigit() else image, image),
            metric="vqa_accuracy",
            kind="image",
            answers=[str(each.get("answer") if isinstance(each, dict) else each) for each in people],
            groups={"answer type": str(answer["answer_type"])} if "answer_type" in answer else {},
        )


def read_gqa(folder: Path, roots: Sequence[Path]) -> Iterator[Item]:
    """Yield questions of testdev_balanced_questions.json: {id: {"imageId", "question", "answer", "types"}}.

    https://cs.stanford.edu/people/dorarad/gqa/evaluate.html: an answer is right when it is the expected one.
    """
    names = ("testdev_balanced_questions.json", "*_questions.json")
    file = first_file(folder, *names, *(f"*/{name}" for name in names))
    if file is None:
        raise UserError(f"{folder}: has no testdev_balanced_questions.json")
    content = load_json(file)
    if not isinstance(content, dict) or not all(isinstance(each, dict) for each in content.values()):
        raise UserError(f"{file}: expected {{id: question}}; download it again")
    pictures = MediaFolders(roots, ("images", "allImages/images"), PICTURES)
    for question_id, record in content.items():
        where = f"{file}, question {question_id}"
        kinds = record.get("types")
        kind = kinds.get("structural") if isinstance(kinds, dict) else None
        yield Item(
            id=question_id,
            question=PROMPT.format(text(record, where, "question")),
            answer=text(record, where, "answer"),
            media=pictures.find(text(record, where, "imageId")),
            metric="exact_match",
            kind="image",
            groups={"type": str(kind)} if kind else {},
        )
