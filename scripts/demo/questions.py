"""What the demo asks about its scenes: easy questions for the base, one new skill for the adapter."""

from collections.abc import Callable, Iterable

from scripts.demo.scenes import Scene

Skill = tuple[str, Callable[[Scene], str]]  # the question, and its answer

LOOKS: dict[str, Skill] = {
    "colour": ("What colour is the shape?", lambda scene: scene.colour),
    "shape": ("What shape is it?", lambda scene: scene.shape),
}
PICTURE_SKILLS = LOOKS | {"place": ("Where is it?", lambda scene: scene.place(0))}
CLIP_SKILLS = LOOKS | {
    "first": ("Where is it at first?", lambda scene: scene.place(0)),
    "last": ("Where is it at last?", lambda scene: scene.place(1)),
}
NEW_SKILL = {"direction": ("Which way does it move?", lambda scene: scene.direction)}

# Answers that are as good as the one that is taught.
SYNONYMS = {"purple": ["purple", "violet"], "cross": ["cross", "plus"]}


def make_records(scene: Scene, kind: str, file: str, skills: dict[str, Skill]) -> list[dict]:
    """One LLaVA record a question about `file`, an "image" or a "video" of the scene."""
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


def all_texts(records: Iterable[dict]) -> list[str]:
    """Every question and answer as a prompt has them: what the tokenizer is trained on."""
    turns = (turn for record in records for turn in record["conversations"])
    roles = {"human": "USER:", "gpt": "ASSISTANT:"}
    return [f"{roles[turn['from']]} {turn['value'].rpartition('>')[2]}" for turn in turns]
