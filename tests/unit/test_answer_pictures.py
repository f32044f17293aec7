"""Pictures of answers: green or red, in many alphabets, the same questions at each evaluation, by step."""

import io
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageChops
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator
from transformers import TrainerControl, TrainerState, TrainingArguments

from tests.run_folders import RECIPE, answered, write_evaluation, write_run
from tests.unit.test_curves import Recorder
from train.progress.curves import TENSORBOARD, Curves
from train.recipe.recipe import Data
from train.report.answer_pictures import AnswerPictures, fixed_set
from train.report.sample_pictures import BAR, GREEN, LINE, RED, WIDTH, Sample, draw_sample, font, lines_of, strip

FRAMES = [np.full((48, 80, 3), 30 * number, np.uint8) for number in range(8)]


def colour(name: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(name[1:]))


def has(picture: np.ndarray, name: str) -> bool:
    return bool((picture == colour(name)).all(axis=-1).any())


@pytest.mark.parametrize(("is_right", "shown", "absent"), [(True, GREEN, RED), (False, RED, GREEN)])
def test_a_picture_says_by_its_colour_whether_the_answer_is_right(is_right, shown, absent):
    picture = draw_sample(Sample("Which way?", "up", "down", is_right, [FRAMES]))
    assert picture.shape[1:] == (WIDTH, 3) and picture.dtype == np.uint8
    assert (picture[:, :BAR] == colour(shown)).all()
    assert has(picture[:, BAR:], shown) and not has(picture, absent)


def test_frames_stand_in_one_strip_in_their_order():
    shown = np.asarray(strip(FRAMES, 600))
    assert 590 <= shown.shape[1] <= 600
    assert [int(shown[20, int(600 * (number + 0.5) / 8), 0]) for number in range(8)] == list(range(0, 240, 30))
    assert strip(FRAMES[:1], 600).height == 200, "one picture is not blown up"


@pytest.mark.parametrize(
    "text", ["Какого цвета фигура?", "Τι χρώμα έχει;", "ما هو لون الشكل؟", "מה הצבע?", "çok güzel"]
)
def test_words_that_the_font_has_are_drawn(text):
    unknown = font(False).getmask("\U000f0000")  # a letter that no font has
    for letter in filter(str.isalpha, text):
        drawn = font(False).getmask(letter)
        assert drawn.getbbox() and (drawn.size, bytes(drawn)) != (unknown.size, bytes(unknown)), letter
    several = [Image.fromarray(draw_sample(Sample(each, "", "", True))) for each in (text, "")]
    assert ImageChops.difference(*(each.crop((0, 0, WIDTH, several[1].height)) for each in several)).getbbox()


@pytest.mark.parametrize("text", ["word " * 3000, "x" * 10_000, "中" * 700, "\u202e\x00\ud83d\n\t" * 500, ""])
def test_long_and_strange_texts_fit(text):
    lines = lines_of(text, 400, 4)
    assert 1 <= len(lines) <= 4 and all(font(False).getlength(line) <= 400 for line in lines)
    assert lines[-1].endswith("…") == bool(text) and all(line.isprintable() for line in lines)
    picture = draw_sample(Sample(text, text, text, False, [FRAMES, FRAMES[:1]]))
    assert picture.shape[0] < 2 * 200 + 10 * LINE + 100


def test_lines_break_between_words():
    width = int(font(False).getlength("two words ")) + 1
    assert lines_of("two words and  a\nthird", width, 9) == ["two words", "and a", "third"]
    assert "".join(lines_of("x" * 40, width, 9)) == "x" * 40


def test_the_fixed_set_takes_turns_and_is_spread():
    records = [{"source": source, "id": number} for source, count in (("a", 100), ("b", 2)) for number in range(count)]
    chosen = fixed_set(records, 6)
    assert [(each["source"], each["id"]) for each in chosen] == [
        ("a", 0), ("b", 0), ("a", 16), ("b", 1), ("a", 33), ("a", 50)]  # fmt: skip
    assert fixed_set([]) == []


@pytest.fixture
def evaluated(tmp_path):
    """Returns what writes evaluations of 12 questions, right from a step on that is their number times ten."""

    def write(*steps: int) -> None:
        for step in steps:
            records = [answered(number, "up" if step >= number * 10 else "down") for number in range(12)]
            write_evaluation(tmp_path, step, {"val": records})

    write_run(tmp_path, num_steps=1)
    return write


def pictures_of(folder) -> AnswerPictures:
    return AnswerPictures(folder, Data.model_validate(RECIPE["data"]))


def test_each_evaluation_is_drawn_once_with_the_same_questions(evaluated, tmp_path):
    pictures = pictures_of(tmp_path)
    assert pictures.new(0) == {}
    evaluated(0)
    first = pictures.new(0)
    assert list(first) == [0] and len(first[0]) == 8 and pictures.new(9) == {}
    evaluated(50, 100)
    second = pictures.new(50)
    assert list(second) == [50] and second[50].keys() == first[0].keys() and list(pictures.new(100)) == [100]
    right = Counter(has(picture, GREEN) for picture in second[50].values())
    assert right == {True: 4, False: 4}  # of questions 0, 1, 3, 4 and 6, 7, 9, 10
    later = pictures_of(tmp_path)  # a run that is continued from step 50
    later.skip(50)
    assert list(found := later.new(100)) == [100] and found[100].keys() == first[0].keys()


def test_training_does_not_end_for_a_picture(evaluated, tmp_path, monkeypatch, capsys):
    def fail(sample):
        raise OSError("no font")

    evaluated(0, 10)
    monkeypatch.setattr("train.report.answer_pictures.draw_sample", fail)
    pictures = pictures_of(tmp_path)
    assert pictures.new(0) == pictures.new(10) == {}
    assert capsys.readouterr().err == "no more pictures of answers: no font\n"


@pytest.fixture
def run(evaluated, tmp_path):
    """Returns what trains from one step to another under a tracker, with an evaluation every ten steps."""

    def train(tracker: str, begin: int, end: int) -> None:
        args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
        args.report_to = [tracker]
        state, control = TrainerState(global_step=begin), TrainerControl()
        curves = Curves(RECIPE, pictures_of(tmp_path))
        curves.on_train_begin(args, state, control)
        for state.global_step in range(begin if begin == 0 else begin + 10, end + 1, 10):
            evaluated(state.global_step)
            curves.on_log(args, state, control, logs={"eval_loss": 1.0})
        curves.on_train_end(args, state, control)

    return train


def test_tensorboard_has_each_question_by_step_over_a_continuation(run, tmp_path):
    run("tensorboard", 0, 20)
    run("tensorboard", 10, 30)  # killed behind the checkpoint of step 10
    events = EventAccumulator(str(tmp_path / TENSORBOARD), size_guidance={IMAGES: 0}).Reload()
    assert events.Tags()["images"] == [f"answers/{place} val" for place in range(1, 9)]
    steps = events.Images("answers/3 val")  # question 3, right from step 30 on
    assert [event.step for event in steps] == [0, 10, 20, 30]
    drawn = [np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB")) for event in steps]
    assert [tuple(picture[0, 0]) for picture in drawn] == [colour(RED)] * 3 + [colour(GREEN)]
    assert drawn[0].shape[1] == WIDTH


def test_wandb_gets_the_pictures_too(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", module := Recorder("wandb"))
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    run("wandb", 0, 10)
    named = [next(iter(given[0])) for what, given, _ in module.calls if what == "log" and "answers" in str(given[0])]
    assert Counter(named) == {f"answers/{place} val": 2 for place in range(1, 9)}
    drawn = [given[0] for what, given, _ in module.calls if what == "Image"]
    assert len(drawn) == 16 and {picture.shape[1:] for picture in drawn} == {(WIDTH, 3)}
