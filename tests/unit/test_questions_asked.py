"""Turns of conversations -> the questions that are asked, what they accept, and the counted scores."""

import pytest

from data.errors import UserError
from data.media.locate import Locator
from data.media.reference import Media
from data.sources.conversation import parse_record
from tests.tiny_data import turns
from train.results import evaluation
from train.results.evaluation import Question, evaluate, questions_of


def text(words):
    return {"type": "text", "text": words}


def conversation(tmp_path, **record):
    return parse_record(record, "data.json record 1", Locator((tmp_path,)))


def test_every_assistant_turn_is_a_question_with_the_true_history(tmp_path):
    record = {"id": 7, "image": ["a.png", "b.png"], "conversations": turns("<image>\nOne?", "1", "And <image>?", "2")}
    first, second = questions_of(conversation(tmp_path, **record), system_prompt="Be brief.")
    system = {"role": "system", "content": [text("Be brief.")]}
    user = {"role": "user", "content": [{"type": "image"}, text("One?")]}
    media = (Media("image", str(tmp_path / "a.png")), Media("image", str(tmp_path / "b.png")))
    assert first == Question("7/1", [system, user], media[:1], "One?", "1", None)
    history = [{"role": "assistant", "content": [text("1")]}]
    last = [{"role": "user", "content": [text("And "), {"type": "image"}, text("?")]}]
    assert second == Question("7/2", [system, user, *history, *last], media, "And ?", "2", None)


def test_a_single_question_keeps_its_record_s_id_or_row(tmp_path):
    (named,) = questions_of(conversation(tmp_path, id="q1", conversations=turns("Hi?", "Ho")))
    (unnamed,) = questions_of(conversation(tmp_path, conversations=turns("Hi?", "Ho")))
    assert (named.id, unnamed.id) == ("q1", "data.json record 1")


def test_accept_is_one_list_or_one_for_each_question(tmp_path):
    two = turns("a", "b", "c", "d")
    (one,) = questions_of(conversation(tmp_path, conversations=two[:2], accept=["left", "right"]))
    assert one.accept == ["left", "right"]
    both = questions_of(conversation(tmp_path, conversations=two, accept=[["left"], ["x", "y"]]))
    assert [question.accept for question in both] == [["left"], ["x", "y"]]
    for wrong, record in [
        (["left"], two),
        ("left", two[:2]),
        ([], two[:2]),
        ([""], two[:2]),
        ([["a"], ["b"]], two[:2]),
    ]:
        with pytest.raises(UserError, match="data.json record 1, accept: expected a list of texts"):
            questions_of(conversation(tmp_path, conversations=record, accept=wrong))


def test_scores_are_counted(monkeypatch):
    answers = [{2: "no"}, {0: "It is red.", 1: "2"}]
    monkeypatch.setattr(evaluation, "answer_together", lambda *asked, take: [take(some) for some in answers])
    questions = [
        Question("a", [], (Media("video", "clips/a.mp4"),), "Colour?", "a red square", ["red"]),
        Question("b", [], (), "How many?", "Two", None),
        Question("c", [], (), "Is it?", "yes", None),
    ]
    records, summary = evaluate(None, None, questions)
    expected = {"id": "a", "media": ["clips/a.mp4"], "question": "Colour?", "expected": "a red square"}
    assert records[0] == {**expected, "predicted": "It is red.", "correct": True}
    assert [record["correct"] for record in records] == [True, True, False]
    assert summary["seconds"] >= 0
    counts = {name: summary[name] for name in ("accuracy", "questions", "left_out", "bad_media")}
    assert counts == {"accuracy": 2 / 3, "questions": 3, "left_out": 0, "bad_media": 0}
    assert summary["modalities"]["clip"]["accuracy"] == 1 and summary["modalities"]["text"]["accuracy"] == 0.5
