import json

import pytest

from data.errors import UserError
from tests.safety.kills import files_of_at_most
from train.results.answer_file import AnswerFile

KEYS = [{"id": number // 2, "question": "Why?"} for number in range(6)]  # each twice


def answers(path, keys=KEYS, **identity):
    return AnswerFile(path, {"model": "a", "questions": "b", **identity}, keys)


def record(place, predicted="so"):
    return {place: {**KEYS[place], "predicted": predicted}}


def test_answers_are_there_as_they_come_and_ordered_in_the_end(tmp_path):
    out = tmp_path / "new" / "out.jsonl"
    with answers(out) as file:
        file.append(record(4) | record(0))
        assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [2, 0]
        file.append(record(3, "é ☃ \ud800"))
        assert file.finish() == [record(0)[0], record(3, "é ☃ \ud800")[3], record(4)[4]]
    lines = out.read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [0, 1, 2] and "\\u" not in lines[0]
    assert [path.name for path in out.parent.iterdir()] == ["out.jsonl"]


def test_a_second_start_goes_on_behind_the_last_whole_line(tmp_path):
    out = tmp_path / "out.jsonl"
    with answers(out) as file:
        file.append(record(5) | record(1, "1st of two equal ones"))
    out.write_bytes(out.read_bytes() + b'{"id": 0, "quest')
    with answers(out) as file:
        # Equal questions cannot be told apart: the first place that waits takes the answer.
        assert sorted(file.records) == [0, 4]
        file.append(record(1))
        assert out.read_bytes().count(b"\n") == 3
    with answers(out) as file:
        assert sorted(file.records) == [0, 1, 4]


def test_answers_of_another_model_are_not_mixed_in_nor_overwritten(tmp_path):
    out = tmp_path / "out.jsonl"
    with answers(out) as file:
        file.append(record(0))
    before = out.read_bytes()
    with pytest.raises(UserError, match="unfinished evaluation with another model and questions; give another --out"):
        answers(out, model="x", questions="y").__enter__()
    assert out.read_bytes() == before
    (tmp_path / ".out.jsonl.unfinished.json").unlink()
    with answers(out, model="x") as file:  # a finished file of an earlier evaluation is replaced
        assert file.records == {} and out.read_bytes() == b""


def test_two_evaluations_do_not_write_one_file(tmp_path):
    with answers(tmp_path / "out.jsonl") as file:
        file.append(record(0))
        with pytest.raises(UserError, match="another evaluation is writing it"):
            answers(tmp_path / "out.jsonl").__enter__()
        file.append(record(1))
        assert len(file.finish()) == 2


@pytest.mark.parametrize("room", [0, 30, 100, 150])
def test_a_full_disk_is_one_line_and_costs_no_answer(tmp_path, room):
    out = tmp_path / "out.jsonl"
    with answers(out) as file:
        file.append(record(0))
    before = out.read_bytes()
    with pytest.raises(UserError, match=r"cannot write .*out\.jsonl: File too large; what was answered before is kept"):
        with answers(out) as file, files_of_at_most(len(before) + room):
            file.append(record(1, "x" * 200))
    assert out.read_bytes() == before
    with answers(out) as file:
        assert sorted(file.records) == [0]
        with pytest.raises(UserError, match="File too large"), files_of_at_most(len(before) - 10):
            file.finish()
    with answers(out) as file:
        assert file.finish() == [record(0)[0]]


def test_nothing_is_left_of_an_evaluation_without_an_answer(tmp_path):
    with pytest.raises(UserError), answers(tmp_path / "out.jsonl"):
        raise UserError("none of the questions can be answered")
    assert list(tmp_path.iterdir()) == []
