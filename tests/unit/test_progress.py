"""Progress of a run: a plan, a line for each log, a bar in a terminal, and nothing from other ranks."""

import json
import re
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments, trainer_pt_utils

from data.progress.durations import duration
from tests.short_run import write_recipe
from tests.terminals import widest
from train.progress import display as displaying
from train.progress.display import Display, StartUp
from train.progress.lines import HEADER, evaluation_lines, plan_lines, training_line
from train.sft import main

LOGS = {"loss": 1.23456, "learning_rate": 2e-4, "step_s": 0.5, "data_wait_s": 0.015, "samples_per_s": 46.28}


def test_figures_stand_below_their_names():
    line = training_line({**LOGS, "peak_memory_mib": 7577.6}, 20, 38000, 3723)
    assert line == "       20/38000    1.2346   2.00e-04         46.3    3%    7.4 GiB   1:02:03"
    assert len(HEADER) == len(line)
    below = {"step": "38000", "loss": "1.2346", "lr": "e-04", "questions/s": "46.3", "left": "1:02:03"}
    for name, value in below.items():
        assert HEADER.index(name) + len(name) == line.index(value) + len(value)


def test_no_line_is_wider_than_a_terminal():
    largest = {"learning_rate": 1e-10, "step_s": 1, "data_wait_s": 1, "samples_per_s": 1e5, "peak_memory_mib": 1e6}
    losses = (1e-5, 123.4, 9999.1, 1e300, float("nan"), float("-inf"))
    lines = [training_line({"loss": loss, **largest}, 1000000, 1000000, 1e7) for loss in losses] + [HEADER]
    assert {len(line) for line in lines} == {len(HEADER)} and "1.00e-05" in lines[0] and "  123.4000  " in lines[1]
    lines += evaluation_lines({"eval_loss": 9e4, "eval_runtime": 1e6}, 1000000, 1000000)
    lines += evaluation_lines(
        {**answered("", "a" * 64, "b"), "eval_questions_per_s": 1e5, "eval_runtime": 1e6}, 1000000, 1000000
    )
    lines += plan_lines(10**8, 10**7, 10**4, 10**6, 10**6 - 1, 1e3, 10**10, dict.fromkeys(["libraries", "data"], 1e4))
    assert max(map(len, lines)) <= 80


def answered(*parts: str) -> dict:
    """Return the figures of an evaluation in which all is right; "" stands for everything."""
    names = ("loss", "accuracy", "accuracy_low", "accuracy_high", "questions")
    figures = (1.5, 1.0, 0.9999, 1.0, 10**9)
    logs = {"eval_loss": 1.5, "eval_questions_per_s": 2.5}
    for part in parts:
        logs |= {f"eval_{part}{'/' * bool(part)}{name}": value for name, value in zip(names, figures, strict=True)}
    return logs


def test_an_evaluation_tells_of_its_parts_where_there_are_several():
    def parts(*names):
        return [line.split()[0] for line in evaluation_lines(answered("", *names), 2, 4)[2:]]

    assert evaluation_lines(answered("", "val"), 2, 4) == [
        "            2/4    1.5000  evaluated, 2.5 questions/s",
        "                           100.0% of 1,000,000,000 right (100.0% to 100.0%)",
    ]
    assert parts("val") == []
    assert parts("val", "test") == ["val", "test"]
    assert parts("val", "modality/clip", "modality/text") == ["clip", "text"]
    assert parts("val", "test", "modality/clip", "modality/text") == ["val", "test", "clip", "text"]
    assert evaluation_lines({"eval_loss": 1.5}, 2, 4) == ["            2/4    1.5000  evaluated"]


def test_the_plan_is_reckoned_from_the_rows():
    assert plan_lines(16, 3, 2, 6, 2, 3.0, 40960, {"libraries": 6.12, "data": 1.0}) == [
        "plan: 16 conversations in 3 rows, 2 rows a step",
        "      6 steps (2 done), 3 epochs, about 10.7 questions a step",
        "      40,960 parameters are trained",
        "      started in 7.1 s: libraries 6.1, data 1.0",
    ]
    assert plan_lines(None, None, 2, 6, 0, 1.0, 1, {"data": 1.0})[:2] == [
        "plan: conversations as they are read, 2 rows a step",
        "      6 steps",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (67, "1:07"), (3600, "1:00:00"), (86399.7, "1 d 00 h"), (183600, "2 d 03 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


class Rows(list):
    def num_samples(self) -> int:
        return 30


def steps(shown: Display, state: TrainerState, args, clock, numbers) -> None:
    for number in numbers:
        clock.now += 2.0
        state.global_step = number
        shown.on_step_end(args, state, TrainerControl())


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Returns a display whose clock is set by hand, its state and its arguments, when training has begun."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(displaying.time, "perf_counter", lambda: clock.now)

    def start(is_first_rank: bool = True, done: int = 0, parameters=()):
        args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=False)
        state = TrainerState(max_steps=100, global_step=done, is_world_process_zero=is_first_rank)
        state.num_train_epochs = 1
        shown = Display(StartUp(), Rows([1] * 10), 1)
        model = SimpleNamespace(parameters=lambda: parameters)
        shown.on_train_begin(args, state, TrainerControl(), model=model)
        return shown, state, args, clock

    return start


def test_the_time_left_is_told_after_three_steps(begin, capsys):
    shown, state, args, clock = begin(done=40)
    assert capsys.readouterr().out.splitlines()[-1] == HEADER
    clock.now += 50  # the first step warms up, and does not count
    steps(shown, state, args, clock, [41, 42])
    assert capsys.readouterr().out == ""
    steps(shown, state, args, clock, [43])
    assert capsys.readouterr().out == "      2.00 s a step: about 1:54 left\n"
    shown.on_log(args, state, TrainerControl(), logs=dict(LOGS))
    assert capsys.readouterr().out.rstrip().endswith("1:54")


def test_parameters_are_counted_whole_where_zero3_spreads_them(begin, capsys, monkeypatch):
    monkeypatch.setattr(trainer_pt_utils, "is_deepspeed_zero3_enabled", lambda: True)
    shares = [SimpleNamespace(requires_grad=trained, numel=lambda: 0, ds_numel=1200) for trained in (True, False)]
    begin(parameters=shares)
    assert "      1,200 parameters are trained\n" in capsys.readouterr().out


def test_other_ranks_are_silent(begin, capsys):
    shown, state, args, clock = begin(is_first_rank=False)
    steps(shown, state, args, clock, range(1, 5))
    shown.on_log(args, state, TrainerControl(), logs=dict(LOGS))
    shown.on_train_end(args, state, TrainerControl())
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_below_the_lines(begin, terminal):
    shown, state, args, clock = begin()
    steps(shown, state, args, clock, range(1, 5))
    shown.on_log(args, state, TrainerControl(), logs=dict(LOGS))
    loader = [1, 2]
    for _ in loader:
        clock.now += 1
        shown.on_prediction_step(args, state, TrainerControl(), eval_dataloader=loader)
    shown.on_evaluate(args, state, TrainerControl())
    shown.on_train_end(args, state, TrainerControl())
    text = terminal.getvalue()
    assert "4/100" in text and "1.2346" in text
    assert "\x1b[?25l" not in text, "the cursor is hidden, and a killed process would leave it so"
    assert widest(text) <= 80


def test_a_run_shows_lines_and_no_dict(model_folder, mixed_file, tmp_path, capsys):
    training = {"max_steps": 6, "logging_steps": 3, "eval_strategy": "steps", "eval_steps": 3, "save_strategy": "no"}
    data = {"eval": [{"path": str(mixed_file)}]}
    main([str(write_recipe(tmp_path, model_folder, mixed_file, {}, data, training))])
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert "plan: 16 conversations in 3 rows, 1 row a step" in lines and HEADER in lines
    logged = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    losses = [(each["step"], f"{each['loss']:.4f}") for each in logged if "loss" in each]
    assert [(int(step), loss) for step, loss in re.findall(r"^ *(\d+)/6 +([\d.]+) +\d", printed, re.M)] == losses
    assert len(re.findall(r"^ *[36]/6 +[\d.]+  evaluated in ", printed, re.M)) == 2
    assert len(re.findall(r"^      (?:no worker is needed|0 workers do not keep up)", printed, re.M)) == 1
    assert re.search(r"^      40,960 parameters are trained$", printed, re.M)
    (started,) = re.findall(r"^      started in [\d.]+ s: (.+)$", printed, re.M)
    assert re.sub(r" [\d.]+", "", started) == "libraries, data, model, trainer"
    assert "{" not in printed and len(losses) == 2
