"""The demo's questions about its scenes: easy ones for the base, one new skill for the adapter."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from scripts.demo.scenes import Scene

Skill = tuple[str, Callable[[Scene], str]]  # the question, and its answer
Record = dict[str, Any]  # a conversation as a LLaVA file holds it


def first_place(scene: Scene) -> str:
    return scene.place(progress=0)


def last_place(scene: Scene) -> str:
    return scene.place(progress=1)


LOOKS: dict[str, Skill] = {
    "colour": ("What colour is the shape?", lambda scene: scene.colour),
    "shape": ("What shape is it?", lambda scene: scene.shape),
}
PICTURE_SKILLS: dict[str, Skill] = LOOKS | {"place": ("Where is it?", first_place)}
CLIP_SKILLS: dict[str, Skill] = LOOKS | {
    "first": ("Where is it at first?", first_place),
    "last": ("Where is it at last?", last_place),
}
NEW_SKILL: dict[str, Skill] = {"direction": ("Which way does it move?", lambda scene: scene.direction)}

# Answers that are as good as the one that is taught.
SYNONYMS = {"purple": ["purple", "violet"], "cross": ["cross", "plus"]}


def make_records(scene: Scene, kind: str, file: str, skills: Mapping[str, Skill]) -> list[Record]:
    """Return one LLaVA record for each question about `file`, an "image" or a "video" of the scene."""
    records = []
    for name, (question, answer) in skills.items():
        text = answer(scene)
        record = {
            "id": f"{file.rsplit('.', 1)[0]}-{name}",
            kind: file,
            "conversations": [
                {"from": "human", "value": f"<{kind}>\n{question}"},
                {"from": "gpt", "value": text},
            ],
        }
        records.append(record | ({"accept": SYNONYMS[text]} if text in SYNONYMS else {}))
    return records


def all_texts(records: Iterable[Record]) -> list[str]:
    """Return every question and answer as a prompt has them; the tokenizer is trained on these."""
    turns = (turn for record in records for turn in record["conversations"])
    roles = {"human": "USER:", "gpt": "ASSISTANT:"}
    return [f"{roles[turn['from']]} {turn['value'].rpartition('>')[2]}" for turn in turns]
