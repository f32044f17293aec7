"""The parts of the page about a run: chosen answers, totals, curves and frames, without a page."""

import math
from collections import Counter

import numpy as np
import pytest

from data.errors import UserError
from tests.run_folders import write_lines, write_run
from train.report import frames as frames_module
from train.report.charts import MAX_POINTS, Chart, Curve, draw, thinned
from train.report.chosen import Answer, best, changes, paired, spread, worst
from train.report.frames import Frames
from train.report.run_facts import read_run, totals


def answer(number: int, before: float | None, after: float, source: str = "a", clip: str = "") -> Answer:
    record = {"id": number, "source": source, "question": "?", "expected": "!", "predicted": "", "media": [clip]}
    return Answer(record, after, None if before is None else "", before)


def test_the_best_have_gained_most_and_the_worst_have_lost_most():
    answers = [answer(0, 1, 1), answer(1, 0, 1), answer(2, 1, 0), answer(3, 0, 0), answer(4, 0.2, 0.9)]
    assert [each.record["id"] for each in best(answers)] == [1, 4, 0]
    assert [each.record["id"] for each in worst(answers)] == [2, 3]
    assert changes(answers) == changes([*answers, answer(5, None, 1)])
    found = changes(answers)
    assert (found.learned, found.lost, found.right, found.wrong) == (2, 1, 1, 1)
    assert found.p == pytest.approx(2 * (1 + 3) / 8)  # two-sided: at most one head of three coins
    assert changes([answer(5, None, 1)]) is None


def test_equal_answers_take_turns_by_source_and_clip():
    answers = [answer(number, 0, 1, "ab"[number >= 6], f"clip{number % 2}") for number in range(9)]
    chosen = spread(answers, lambda each: -each.gain, 4)
    assert Counter((each.record["source"], each.record["media"][0]) for each in chosen) == {
        ("a", "clip0"): 1, ("a", "clip1"): 1, ("b", "clip0"): 1, ("b", "clip1"): 1}  # fmt: skip


def test_answers_find_their_earlier_ones_also_where_ids_repeat():
    twice = {"source": "a", "id": 1, "question": "?", "expected": "up"}
    before = [{**twice, "predicted": "first", "correct": False}, {**twice, "predicted": "second", "correct": True}]
    after = [{**twice, "predicted": text, "correct": True} for text in ("x", "y", "z")]
    assert [each.before for each in paired(before, after)] == ["first", "second", None]


def test_totals_are_sums_over_steps(tmp_path):
    folder = write_run(tmp_path / "run")
    lines = [{"step": 10, "step_s": 2.0, "questions": 3.0}, {"step": 10, "eval_loss": 1.0, "eval_runtime": 4.0}]
    write_lines(folder / "metrics.jsonl", [*lines, {"step": 15, "step_s": 1.0, "questions": 5.0, "save_s": 0.5}])
    total = totals(read_run(folder))
    assert (total.seconds, total.questions, total.saved, total.evaluated) == (25.0, 55.0, 2.5, 4.0)
    assert total.speed is None and total.peak_memory_gib is None


def test_a_curve_is_where_its_values_are():
    drawn = draw(Chart("Loss", [Curve("a", [(0, 0.0), (50, 2.0), (100, 4.0), (120, math.nan)])], str, floor=0))
    assert drawn.curves[0].line == "0.0,1000.0 500.0,500.0 1000.0,0.0"
    assert [(x, y) for x, y, _ in drawn.curves[0].dots] == [(0, 100), (50, 50), (100, 0)]
    assert drawn.curves[0].dots[1][2] == "a, step 50: 2.0" and drawn.values[0][0] == 100 and drawn.steps[0] == (0, "0")
    assert draw(Chart("Loss", [Curve("a", []), Curve("b", [(1, math.inf)])], str)) is None
    assert draw(Chart("One", [Curve("a", [(7, 3.0)])], str)).curves[0].line == "500.0,500.0"


def test_long_curves_are_thinned_to_means():
    points = [(step, float(step)) for step in range(1, 10_001)]
    found = thinned(points)
    assert len(found) <= MAX_POINTS and found[-1] == (10_000, 10_000.0)
    assert found[0] == (26, np.mean(range(1, 27))) and thinned(points[:MAX_POINTS]) == points[:MAX_POINTS]


def test_frames_of_a_long_clip_are_few_and_small(tmp_path):
    data = frames_module.Data.model_construct(eval=[], num_frames=20, decode_seconds=1.0)
    pixels = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 300, 600, 3), np.uint8)
    frames = Frames(data, decode=lambda item, count: pixels)
    shown = frames._frames(frames_module.Media("video", "a.mp4"))
    assert [int(frame.mean()) for frame in shown] == [0, 2, 5, 7, 10, 12, 15, 17]  # i * 20 // 8
    assert {frame.shape for frame in shown} == {(80, 160, 3)}


def test_a_clip_that_cannot_be_decoded_is_named_and_left_out(capsys):
    def refuse(item, count):
        raise UserError("'a.mp4' has no frame")

    data = frames_module.Data.model_construct(eval=[], num_frames=8, decode_seconds=1.0)
    assert Frames(data, decode=refuse)._frames(frames_module.Media("video", "a.mp4")) == []
    assert "cannot be shown: 'a.mp4' has no frame" in capsys.readouterr().out
