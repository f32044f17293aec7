"""Two files of answers, compared question by question."""

import json

import pytest

from data.errors import UserError
from train.scoring.comparison import compare, read_answers
from train.scoring.table import print_compared


def answer(name, correct, **more):
    record = {"id": name, "question": "q?", "expected": "x", "media": ["here/a.mp4"], "predicted": "y"}
    return {**record, "correct": correct, **more}


def test_wins_losses_and_ties_are_those_of_each_question(capsys):
    ours = [answer(number, number < 7) for number in range(10)]
    # The other has its own paths and another order: it is right at 0, 1 and 9, and lacks 8.
    others = [answer(number, number in (0, 1, 9), media=["there/a.mp4"]) for number in (9, 3, 2, 1, 0, 4, 5, 6, 7)]
    compared = compare(ours, [*others, answer("z", True)])
    assert (compared["wins"], compared["losses"], compared["ties"]) == (5, 1, 3)
    assert (compared["questions"], compared["only_here"], compared["only_there"]) == (9, 1, 1)
    assert (compared["accuracy"], compared["accuracy_there"]) == (7 / 9, 3 / 9)
    assert compared["p"] == pytest.approx(2 * (1 + 6) / 2**6)  # 0 or 1 of six coins, both ways
    print_compared({"file": "b.jsonl", **compared})
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert printed == [
        "against b.jsonl",
        "      questions   here  there  won  lost  tied  McNemar's p",
        "both          9  77.8%  33.3%    5     1     3        0.219",
        "not compared: 1 only here, 1 only there",
        "      question  expected  here  there",
        *(
            f"{name:<4}  {number}: q?     x         y     y"
            for name, number in zip(["lost"] + ["won"] * 5, "923456", strict=True)
        ),
    ]


def test_long_questions_and_answers_stay_within_the_terminal(capsys):
    ours = [answer("n" * 40, True, question="why \x1b[31m" + "so " * 99, predicted="here" * 30)]
    print_compared({"file": "b.jsonl", **compare(ours, [{**ours[0], "correct": False, "predicted": "there " * 30}])})
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80 and "\x1b" not in printed
    assert all(word in printed for word in ("why", "here", "there", "..."))


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


def test_an_answer_may_hold_what_ends_lines_elsewhere(tmp_path):
    strange = [answer(0, True, predicted="a\u2028b\u0085c\u2029d")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in strange))
    assert read_answers(tmp_path / "a.jsonl") == strange
