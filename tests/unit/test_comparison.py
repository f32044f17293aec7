"""Two files of answers, compared question by question."""

import json

import pytest

from data.errors import UserError
from train.scoring.comparison import compare, in_words, read_answers


def answer(name, correct, **more):
    record = {"id": name, "question": "q?", "expected": "x", "media": ["here/a.mp4"], "predicted": "y"}
    return {**record, "correct": correct, **more}


def test_wins_losses_and_ties_are_those_of_each_question():
    ours = [answer(number, number < 7) for number in range(10)]
    # The other has its own paths and another order: it is right at 0, 1 and 9, and lacks 8.
    others = [answer(number, number in (0, 1, 9), media=["there/a.mp4"]) for number in (9, 3, 2, 1, 0, 4, 5, 6, 7)]
    compared = compare(ours, [*others, answer("z", True)])
    assert (compared["wins"], compared["losses"], compared["ties"]) == (5, 1, 3)
    assert (compared["questions"], compared["only_here"], compared["only_there"]) == (9, 1, 1)
    assert (compared["accuracy"], compared["accuracy_there"]) == (7 / 9, 3 / 9)
    assert compared["p"] == pytest.approx(2 * (1 + 6) / 2**6)  # 0 or 1 of six coins, both ways
    assert in_words({"file": "b.jsonl", **compared}).splitlines() == [
        "against b.jsonl, 9 questions:",
        "  77.8% here, 33.3% there; 5 won, 1 lost, 3 tied",
        "  McNemar's exact test: p = 0.219",
        "  not compared: 1 only here, 1 only there",
        *(
            f"  {name}: {number}: q? -> y, there y; expected x"
            for name, number in zip(["lost"] + ["won"] * 5, "923456", strict=True)
        ),
    ]


def test_equal_questions_are_compared_in_their_order_and_grades_by_their_size():
    same = [answer("a", True), answer("a", False)]
    assert compare(same, same)["ties"] == 2
    low, high = answer("a", True, score=0.6), answer("a", True, score=0.9)
    graded = compare([low, low], [high, low])
    assert (graded["wins"], graded["losses"], graded["ties"]) == (0, 1, 1)


def test_what_cannot_be_compared_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no question in common"):
        compare([answer("a", True)], [answer("b", True)])
    for content, words in [
        (None, "cannot read"),
        ("{", "no file of answers"),
        ("", "has no answers"),
        ("[1]", "has no answers"),
    ]:
        if content is not None:
            (tmp_path / "out.jsonl").write_text(content)
        with pytest.raises(UserError, match=words):
            read_answers(tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl").write_text(json.dumps(answer("a", True)) + "\n")
    assert read_answers(tmp_path / "out.jsonl") == [answer("a", True)]
